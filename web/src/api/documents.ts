/** Files' texts and people's own indexes of documents. */

import { read, send } from "./http";
import type { AttachmentInfo } from "./types";

const id = encodeURIComponent;

/** What was read of a file: how long it is, by whom it was read, or the reason why there is no text. */
export interface ReadText {
  characters: number;
  /** An estimate that errs high. */
  tokens: number;
  parts: number;
  reader: string | null;
  reason: string | null;
}

export interface FileText {
  name: string;
  sections: { title: string; text: string }[];
  reader: string | null;
  reason: string | null;
}

export interface IndexedDocument {
  id: string;
  name: string;
  size: number;
  passages: number | null;
  error: string | null;
}

export interface DocumentIndex {
  id: string;
  name: string;
  updated: string;
  passages: number;
  built: boolean;
  error: string | null;
  documents: IndexedDocument[];
  progress: { state: "waiting" | "reading" | "indexing"; done: number; total: number; document: string; passages: number } | null;
}

/** A passage that a search weighed, and why it stands where it stands. */
export interface Considered {
  source: string;
  title: string;
  text: string;
  relevance: number | null;
  bm25: number | null;
  fit: number | null;
  rank: number;
  bm25_rank: number;
  given: boolean;
  sentence: string;
  found: string[];
  asked: string[];
}

export interface Lookup {
  query: string;
  index: string;
  threshold: number;
  considered: Considered[];
}

/** Where a passage stands: the text around it, and where in that text it begins and ends. */
export interface Place {
  name: string;
  title: string;
  text: string;
  start: number;
  end: number;
  /** Whether the document goes on beyond the text. */
  cut: boolean;
}

export const readFileText = (attachment: string): Promise<FileText> => read(`/api/attachments/${id(attachment)}/text`);
/** Cuts a piece out of a picture; the rectangle is in pixels of the picture as it is seen upright. */
export const cutPiece = (attachment: string, rectangle: { left: number; top: number; width: number; height: number }): Promise<AttachmentInfo> =>
  send("POST", `/api/attachments/${id(attachment)}/pieces`, rectangle);
export const listIndexes = (): Promise<{ indexes: DocumentIndex[]; shared: string[] }> => read("/api/indexes");
export const createIndex = (name: string): Promise<DocumentIndex> => send("POST", "/api/indexes", { name });
export const deleteIndex = (index: string): Promise<unknown> => send("DELETE", `/api/indexes/${id(index)}`);
export const buildIndex = (index: string): Promise<unknown> => send("POST", `/api/indexes/${id(index)}/build`);
export const addDocument = (index: string, attachment: string): Promise<IndexedDocument & { already: boolean }> =>
  send("POST", `/api/indexes/${id(index)}/documents`, { attachment });
export const removeDocument = (index: string, document: string): Promise<unknown> =>
  send("DELETE", `/api/indexes/${id(index)}/documents/${id(document)}`);
export const findPlace = (index: string, source: string, text: string): Promise<Place> =>
  send("POST", `/api/indexes/${id(index)}/place`, { source, text });
/** The same in documents that the operator registered for all. */
export const findSharedPlace = (index: string, source: string, text: string): Promise<Place> =>
  send("POST", "/api/indexes/place", { index, source, text });
