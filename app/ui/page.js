(() => {
  "use strict";
  const POLL_MS = 2000;
  const element = (id) => document.getElementById(id);

  // Ctrl+Enter (Cmd+Enter) runs from anywhere. A text field sends its value on `input`, a number
  // field only on blur: leave it first, then press the button.
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    if (event.repeat) return;
    const focused = document.activeElement;
    if (focused instanceof HTMLInputElement && focused.type === "number") focused.blur();
    setTimeout(() => element("generate")?.click(), 0);
  }, true);

  document.addEventListener("click", (event) => {
    if (!(event.target instanceof Element)) return;
    if (event.target.closest("#cancel:not([disabled])")) {
      const line = document.querySelector("#status .line.running");
      if (line) line.textContent = "Cancelling…";
    }
    // The outcome is below the form on a phone, above a long form elsewhere: scroll to it.
    const outcome = element("outcome");
    if (outcome && event.target.closest("#generate:not([disabled])") &&
        (window.innerWidth <= 700 || outcome.getBoundingClientRect().top < 0)) {
      const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
      outcome.scrollIntoView({ behavior: still ? "auto" : "smooth", block: "start" });
    }
  });

  // Deleted meanwhile, or this browser cannot play it: shown as words, not as an icon.
  document.addEventListener("error", (event) => {
    const file = event.target;
    if (!(file instanceof Element)) return;
    const tile = file.closest("#strip button"), frame = file.closest("#stage .frame");
    if (tile) {
      tile.replaceChildren(Object.assign(document.createElement("span"), { textContent: "cannot be opened" }));
    } else if (frame) {
      const words = { className: "empty", textContent: "This file cannot be opened any more" };
      frame.replaceChildren(Object.assign(document.createElement("p"), words));
    }
  }, true);

  // Marks the strip's result that is on the stage.
  const markShown = () => {
    const shown = document.querySelector("#stage .frame")?.dataset.file;
    for (const tile of document.querySelectorAll("#strip button")) {
      tile.setAttribute("aria-current", String(tile.dataset.file === shown));
    }
  };

  const bytes = (count) => count >= 1e9 ? `${(count / 1e9).toFixed(1)} GB` : `${Math.round(count / 1e6)} MB`;

  const memoryOf = (slot) => {
    const memory = slot.memory;
    if (memory?.device_total_bytes && slot.device !== "cpu") {
      return `${bytes(memory.device_total_bytes - memory.device_free_bytes)} of ${bytes(memory.device_total_bytes)}`;
    }
    return memory ? bytes(memory.resident_bytes) : "";
  };

  const words = (status) => {
    const slots = status.slots ?? [status];
    const busy = slots.filter((slot) => slot.worker === "busy").length;
    const parts = [{ starting: "starting", ready: "ready", busy: "running", restarting: "starting again",
                     dead: "worker ended" }[status.worker] ?? status.worker];
    if (slots.length > 1 && busy) parts[0] = `${busy} of ${slots.length} running`;
    const ended = slots.filter((slot) => slot.worker === "dead").length;
    if (ended && ended < slots.length) parts.push(`${ended} ended`);
    if (status.queue?.length) parts.push(`queue ${status.queue.length}`);
    for (const slot of slots) {
      if (slot.device) parts.push([slot.device, memoryOf(slot)].filter(Boolean).join(slots.length > 1 ? " " : " · "));
    }
    return parts.join(" · ");
  };

  const show = (state, text) => {
    const chip = document.querySelector("#chip .chip-text");
    if (!chip) return;
    chip.dataset.state = state;
    chip.title = text;
    chip.querySelector(".chip-words").textContent = text;
  };

  // A page outlives its server, but the server's state of its form does not: after a restart the
  // page reloads. Typed values are kept (`visit`).
  let doubtful = false;
  const restarted = async () => {
    const answer = await fetch("gradio_api/app_id");
    return (await answer.json()).app_id !== window.gradio_config.app_id;
  };

  // Some proxies end a stream cleanly, or freeze it, while a run goes on. Gradio does not notice
  // and opens no other one; a reloaded page follows the run again. The server updates `#beat`
  // every few seconds while the stream of a run lives.
  const SILENT_MS = 15_000;
  let heardAt = Date.now();
  const heard = () => { heardAt = Date.now(); };
  const isLost = () => document.querySelector("#status .line.running") && Date.now() - heardAt > SILENT_MS;

  const poll = async () => {
    if (document.hidden) {
      doubtful = true;
      return;
    }
    try {
      if (doubtful && await restarted()) window.location.reload();
      doubtful = false;
      const answer = await fetch("gradio_api/run/status", {
        method: "POST", headers: { "content-type": "application/json" }, body: '{"data":[]}',
      });
      if (!answer.ok) throw new Error(answer.statusText);
      const status = (await answer.json()).data[0];
      show(status.worker, words(status));
      if (isLost()) window.location.reload();
    } catch {
      doubtful = true;
      show("lost", "connection lost · trying again");
    }
  };
  document.addEventListener("visibilitychange", () => { heard(); poll(); });

  // A run that starts or ends changes the status line's class: the chip changes with it.
  let lineState = null;
  const followRun = () => {
    const state = document.querySelector("#status .line")?.className ?? null;
    if (state === lineState) return;
    lineState = state;
    poll();
  };
  const ready = setInterval(() => {
    if (!document.querySelector("#chip .chip-text")) return;
    clearInterval(ready);
    poll();
    setInterval(poll, POLL_MS);
    // Gradio patches what it shows: an update may change no more than a text or an attribute.
    const anything = { subtree: true, childList: true, characterData: true, attributes: true };
    const results = { subtree: true, childList: true, attributeFilter: ["data-file"] };
    new MutationObserver(followRun).observe(element("status"), anything);
    for (const id of ["beat", "status", "stage"]) new MutationObserver(heard).observe(element(id), anything);
    for (const id of ["stage", "strip"]) new MutationObserver(markShown).observe(element(id), results);
  }, 100);
})();
