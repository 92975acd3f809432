"""A script of a user's with gradio_client, run with several of its versions: prints what it sees.

python client_script.py URL PICTURE FOLDER
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

url, picture, folder = sys.argv[1:]
FEW = {"prompt": "a blue star", "steps": 2}
client = Client(url, verbose=False, analytics_enabled=False, download_files=folder)


def followed(job, until=""):
    """Returns the events of a stream: all, or up to the first of this kind."""
    events = []
    for event in job:
        events.append(event)
        if event["event"] == until:
            break
    return events


endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
typed = client.predict("a blue star", steps=2, seed=7, api_name="/run_text_to_image")
job = client.submit(
    workflow="text-to-image", variables=FEW, seed=7, fresh=True, api_name="/generate"
)
events = followed(job)
varied = client.predict(image=handle_file(picture), steps=2, api_name="/run_variations")

long = {**FEW, "steps": 50, "pictures": 4}
by_id = client.submit(workflow="text-to-image", variables=long, api_name="/generate")
run_id = followed(by_id, "step")[-1]["job_id"]
stopped = client.predict(job_id=run_id, api_name="/cancel_job")
end = followed(by_id)[-1]["event"]
by_job = client.submit(workflow="text-to-image", variables=long, api_name="/generate")
left = followed(by_job, "step")[-1]["job_id"]
by_job.cancel()

try:
    client.predict(steps=99, api_name="/run_text_to_image")
    sentence = ""
except AppError as error:
    sentence = str(error)

seen = {
    "version": version("gradio_client"),
    "endpoints": sorted(endpoints),
    "typed": typed,
    "parameters": [
        each["parameter_name"] for each in endpoints["/run_text_to_image"]["parameters"]
    ],
    "events": [event["event"] for event in events],
    "streamed": events[-1],
    "code": job.status().code.name,
    "varied": varied,
    "cancelled": [stopped, end],
    "followed": followed(client.submit(job_id=left, api_name="/follow_job"))[-1]["event"],
    "error": sentence,
    "worker": client.predict(api_name="/status")["worker"],
}
client.close()
print(json.dumps(seen))
