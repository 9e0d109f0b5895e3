/** Every call of the API that the page makes, one function each. */

import { reach, read, send } from "./http";
import type {
  AttachmentInfo,
  Choice,
  Conversation,
  ConversationSummary,
  Feedback,
  FeedbackKind,
  Imported,
  LeverInfo,
  Message,
  ModelInfo,
  PlacePart,
  PointedPart,
  ReportInfo,
  Role,
  SentPart,
  Token,
} from "./types";

const id = encodeURIComponent;

export const listModels = async (): Promise<ModelInfo[]> => (await read<{ data: ModelInfo[] }>("/v1/models")).data;
export const listLevers = async (): Promise<LeverInfo[]> => (await read<{ levers: LeverInfo[] }>("/api/levers")).levers;
export const listReports = async (): Promise<ReportInfo[]> => (await read<{ reports: ReportInfo[] }>("/api/reports")).reports;

/** Lets this browser open reports for some minutes without the key, which a frame or a tab cannot send. */
export const openReportSession = (): Promise<unknown> => send("POST", "/api/reports/session");
export const closeReportSession = (): Promise<unknown> => send("DELETE", "/api/reports/session");

export const listConversations = (q: string, cursor: string | null): Promise<{ conversations: ConversationSummary[]; next: string | null }> =>
  read(`/api/conversations?${query({ q, cursor })}`);
export const createConversation = (title?: string): Promise<ConversationSummary> => send("POST", "/api/conversations", title ? { title } : {});
export const readConversation = (conversation: string): Promise<Conversation> => read(`/api/conversations/${id(conversation)}?tokens=0`);
/** The tokens of one answer; conversations come without them, so that long ones open fast. */
export const readTokens = async (message: string): Promise<Token[]> =>
  (await read<{ tokens: Token[] }>(`/api/messages/${id(message)}/tokens`)).tokens;
export const changeConversation = (conversation: string, change: { title?: string; head?: string | null }): Promise<unknown> =>
  send("PATCH", `/api/conversations/${id(conversation)}`, change);
export const deleteConversation = (conversation: string): Promise<unknown> => send("DELETE", `/api/conversations/${id(conversation)}`);
export const restoreConversation = (conversation: string): Promise<unknown> => send("POST", `/api/conversations/${id(conversation)}/restore`);

export interface NewMessage {
  parent: string | null;
  role: Role;
  parts: SentPart[];
  edited_from?: string;
}
export const addMessage = (conversation: string, message: NewMessage): Promise<Message> =>
  send("POST", `/api/conversations/${id(conversation)}/messages`, message);
/** Puts other words in a message's place and keeps what follows it, down to `end`: copies of it hang below, in a new branch. */
export const rewriteMessage = (conversation: string, rewriting: { message: string; parts: SentPart[]; end: string }): Promise<{ message: string; head: string }> =>
  send("POST", `/api/conversations/${id(conversation)}/rewrite`, rewriting);
/** What would go to the model with a question about a place: nothing is kept. */
export const tellPlace = (place: PointedPart): Promise<PlacePart> => send("POST", "/api/places", { place });
export const deleteMessage = (message: string, mode: "this" | "below"): Promise<{ undo: string }> =>
  send("POST", `/api/messages/${id(message)}/delete`, { mode });
export const hideMessage = (message: string, hidden: boolean): Promise<unknown> => send("POST", `/api/messages/${id(message)}/hide`, { hidden });
export const undo = (ticket: string): Promise<unknown> => send("POST", `/api/undo/${id(ticket)}`);
export const erase = (what: { conversation: string } | { message: string }): Promise<unknown> => send("POST", "/api/erase", what);

export const giveFeedback = (message: string, kind: FeedbackKind, value: string): Promise<Feedback> =>
  send("POST", "/api/feedback", { message, kind, value });
export const listFeedback = (q: string, kind: string, cursor: string | null): Promise<{ feedback: Feedback[]; next: string | null }> =>
  read(`/api/feedback?${query({ q, kind, cursor })}`);
export const changeFeedback = (feedback: string, value: Feedback["value"]): Promise<Feedback> => send("PATCH", `/api/feedback/${id(feedback)}`, { value });
export const deleteFeedback = (feedback: string): Promise<{ undo: string }> => send("DELETE", `/api/feedback/${id(feedback)}`);
export const choose = (choice: Choice): Promise<unknown> => send("POST", "/api/choices", choice);

/** Everything of one kind, and how many rows could not become text. With `consent` the rows say that others may train on them. */
export async function exportLines(kind: "conversations" | "sft" | "preferences", consent: boolean): Promise<{ lines: Blob; leftOut: number }> {
  const response = await reach(`/api/export?${query({ kind, consent: consent ? "1" : null })}`);
  return { lines: await response.blob(), leftOut: Number(response.headers.get("X-Left-Out") ?? 0) };
}

/** Takes over conversations that were exported as JSONL. A line that cannot be used refuses the whole file, or, with `skip`, is left out. */
export async function importLines(file: File, skip: boolean): Promise<Imported> {
  const headers = { "Content-Type": "application/x-ndjson" };
  return (await (await reach(`/api/import${skip ? "?bad_rows=skip" : ""}`, { method: "POST", headers, body: file })).json()) as Imported;
}

export async function attach(file: File): Promise<AttachmentInfo> {
  const response = await reach("/api/attachments", {
    method: "POST",
    headers: { "Content-Type": file.type || "application/octet-stream", "X-Name": encodeURIComponent(file.name) },
    body: file,
  });
  return (await response.json()) as AttachmentInfo;
}

export async function readAttachment(attachment: string): Promise<Blob> {
  return (await reach(`/api/attachments/${id(attachment)}`)).blob();
}

function query(values: Record<string, string | null>): string {
  const kept = Object.entries(values).filter((entry): entry is [string, string] => Boolean(entry[1]));
  return new URLSearchParams(kept).toString();
}
