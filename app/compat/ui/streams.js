// Gradio reads the answers to all calls of a page from one stream. The server closes it when no
// call is left; the answer to a call made at that very moment has no reader: the page believes the
// stream open, then learns that it is closed, and opens no other. The press of a button is lost.
// Needed with gradio 6.31.0.
//
// Here a stream is reported as closed only when no call waits for an answer; until then it
// continues with a new request.
(() => {
  "use strict";
  const plainFetch = window.fetch.bind(window);
  // Requests that break off because the page is left are no errors.
  let left = false;
  window.addEventListener("pagehide", () => { left = true; });
  window.addEventListener("pageshow", () => { left = false; });

  const calls = { made: new Set(), waiting: new Set(), ended: new Set() };

  const named = async (call) => {
    const answer = await call;
    const id = answer.ok ? (await answer.clone().json()).event_id : undefined;
    // Its end may have been read before the answer that names it.
    if (id && !calls.ended.delete(id)) calls.waiting.add(id);
    return answer;
  };

  const join = (resource, options) => {
    const call = named(plainFetch(resource, options));
    calls.made.add(call);
    const forget = () => calls.made.delete(call);
    call.then(forget, forget);
    return call;
  };

  const allAreAnswered = async () => {
    while (calls.made.size) await Promise.allSettled(calls.made);
    return calls.waiting.size === 0;
  };

  const note = (message) => {
    if (!message.includes('"process_completed"')) return;
    const told = JSON.parse(message.slice(message.indexOf("{")));
    if (told.msg === "process_completed" && !calls.waiting.delete(told.event_id)) calls.ended.add(told.event_id);
  };

  const closes = (message) => message.includes('"close_stream"') &&
    JSON.parse(message.slice(message.indexOf("{"))).msg === "close_stream";

  // Passes on the messages of this answer; returns the one that closes the stream, "" for none.
  const handOn = async (answer, controller) => {
    const encoder = new TextEncoder();
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const messages = (rest + value).split("\n\n");
      rest = messages.pop();
      for (const message of messages) {
        if (closes(message)) return `${message}\n\n`;
        note(message);
        controller.enqueue(encoder.encode(`${message}\n\n`));
      }
    }
    controller.enqueue(encoder.encode(rest));
    return "";
  };

  const stream = async (resource, options) => {
    const ask = () => plainFetch(resource instanceof Request ? resource.clone() : resource, options);
    const first = await ask();
    if (!first.ok || !first.body) return first;
    const body = new ReadableStream({
      async start(controller) {
        try {
          let answer = first, end = await handOn(answer, controller);
          while (end && !(await allAreAnswered())) {
            answer = await ask();
            if (!answer.ok || !answer.body) break;
            end = await handOn(answer, controller);
          }
          controller.enqueue(new TextEncoder().encode(end));
          controller.close();
        } catch (error) {
          calls.waiting.clear();
          if (!left) controller.error(error);
        }
      },
    });
    return new Response(body, { status: first.status, headers: first.headers });
  };

  window.fetch = (resource, options) => {
    const { pathname } = new URL(resource instanceof Request ? resource.url : resource, document.baseURI);
    if (pathname.endsWith("/gradio_api/queue/join")) return join(resource, options);
    if (pathname.endsWith("/gradio_api/queue/data")) return stream(resource, options);
    return plainFetch(resource, options);
  };
})();
