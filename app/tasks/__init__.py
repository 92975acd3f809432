"""The tasks a document may name, one file per family."""

from app.tasks import (
    borders,
    depth,
    detectors,
    edges,
    gather,
    language,
    picture,
    qr_code,
    resize,
    segments,
    sound,
    text,
    upscale,
    video,
)
from app.tasks.task import Task

TASKS: dict[str, Task] = {
    "gather_images": gather.IMAGES,
    "gather_videos": gather.VIDEOS,
    "gather_inputs": gather.INPUTS,
    "get_image_size": picture.IMAGE_SIZE,
    "strip_exif": picture.STRIP_EXIF,
    "add_watermark": picture.WATERMARK,
    "add_border_and_mask": borders.BORDER,
    "add_border_and_mask_with_size": borders.BORDER_TO_SIZE,
    "crop_square": resize.CROP_SQUARE,
    "resize_center_crop": resize.CENTER_CROP,
    "resize_rescale": resize.RESCALE,
    "resize_resample": resize.RESAMPLE,
    "resize_bucket": resize.BUCKET,
    "canny": edges.CANNY,
    "canny_cv": edges.CANNY_NATIVE,
    "lineart_standard": edges.LINEART,
    "shuffle": edges.SHUFFLE,
    "qr_code": qr_code.QR_CODE,
    "get_frame": video.FRAME,
    "get_first_frame": video.FIRST_FRAME,
    "get_last_frame": video.LAST_FRAME,
    "video_frames": video.FRAMES,
    "concat_videos": video.CONCAT,
    "pair_audio": video.PAIR,
    "slice_audio": sound.SLICE,
    "crossfade_audio": sound.CROSSFADE,
    "format_chat_message": text.CHAT_MESSAGE,
    "get_dict_value": text.DICT_VALUE,
    "extract_sections": text.SECTIONS,
    "depth": depth.DEPTH,
    "depth_estimator": depth.ESTIMATOR,
    "depth_estimator_tensor": depth.ESTIMATOR_TENSOR,
    "midas": depth.MIDAS,
    "zoe": depth.ZOE_AT_RESOLUTION,
    "zoe_depth": depth.ZOE_NATIVE,
    "segmentation": segments.SEGMENTATION,
    "segment": segments.SEGMENT,
    "sam": segments.EVERYTHING,
    **detectors.DETECTORS,
    "upscale": upscale.SPANDREL_UPSCALE,
    "diffusion_upscale": upscale.DIFFUSION,
    "text_generation": language.TEXT_GENERATION,
    "image_to_text": language.IMAGE_TO_TEXT,
}

REFUSED: dict[str, str] = {
    "batch_decode_post_process": "it reads what a transformers model wrote that was called as a"
    " pipeline, and none is here; 'image_to_text' asks a model what a picture shows, and"
    " 'text_generation' for words, and both read the answer themselves",
    "interpolate_frames": "no library that is kept reads its network (RIFE 4.13), and no code is"
    " copied into this project",
    "restore_faces": "facexlib, which finds the faces, loads pickles from outside the model hub",
    "remove_background": "RMBG-2.0 is code that comes with its weights, and no code of the hub runs"
    " here",
    "dw_pose": "it runs through mmcv and mmpose, which are not kept for this version of torch;"
    " 'openpose' finds poses too",
}
"""Tasks of the dialect that cannot run here, and why."""
