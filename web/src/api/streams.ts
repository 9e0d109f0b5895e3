/** Server-sent events of a POST, which the browser's own EventSource cannot make. */

import { ApiError, reach } from "./http";
import type { AnswerEvent, AnswerRequest } from "./types";

/** Cuts a growing text into its `data:` payloads; what is not whole yet stays for the next piece. */
export class FrameReader {
  private rest = "";

  *read(piece: string): Generator<string> {
    this.rest += piece;
    for (;;) {
      const end = /\r?\n\r?\n/.exec(this.rest);
      if (!end) return;
      const frame = this.rest.slice(0, end.index);
      this.rest = this.rest.slice(end.index + end[0].length);
      const data = frame
        .split(/\r?\n/)
        .filter((line) => line.startsWith("data:"))
        .map((line) => line.slice(5).replace(/^ /, ""));
      if (data.length) yield data.join("\n");
    }
  }
}

/** The last frame of any stream that could not go on: its answer could not be stored, the server is ending. */
interface Failed {
  error: { message: string };
}

/** Yields the events of one answer; one that cannot go on throws. Aborting `signal` closes the connection, which frees the server's slot. */
export async function* answerEvents(conversation: string, request: AnswerRequest, signal: AbortSignal): AsyncGenerator<AnswerEvent> {
  const response = await reach(`/api/conversations/${encodeURIComponent(conversation)}/answer`, {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
    body: JSON.stringify(request),
    signal,
  });
  if (!response.body) return;
  const frames = new FrameReader();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    for (const data of frames.read(value)) {
      const event = JSON.parse(data) as AnswerEvent | Failed;
      if ("error" in event) throw new ApiError(event.error.message, response.status);
      yield event;
    }
  }
}
