/** The table that is looked at: a person's own file, an attached one, or one of an answer. */

import { readAttachment } from "../api/calls";
import type { PlaceSource } from "../api/types";
import { parseCsv, separatorOf } from "../csv";
import { t } from "../texts/texts";

export interface Table {
  name: string;
  columns: string[];
  rows: string[][];
  separator: string;
  /** Where the server finds it; a file that was not sent anywhere yet; null where it cannot be pointed into. */
  source: PlaceSource | File | null;
}

class Handed {
  table = $state.raw<Table | null>(null);
  /** Grows with each table that the conversation is to show beside itself. */
  beside = $state(0);
}

export const handed = new Handed();

/** The first row names the columns; longer rows get columns without a name, so that no cell is left out. */
export function tableOf(name: string, cells: string[][], separator: string, source: Table["source"]): Table {
  const [heading = [], ...rows] = cells;
  const width = rows.reduce((most, row) => Math.max(most, row.length), heading.length);
  return { name, columns: Array.from({ length: width }, (_, at) => (heading[at] ?? "").trim()), rows, separator, source };
}

/** The table of a text with separators. */
export const tableOfCsv = (name: string, text: string, cells: string[][], source: Table["source"]): Table =>
  tableOf(name, cells, separatorOf(text), source);

/** Shows a table beside the conversation. */
export function showBeside(table: Table): void {
  handed.table = table;
  handed.beside += 1;
}

/** Shows an attached file beside the conversation. */
export async function openAttached(attachment: string, name: string): Promise<void> {
  const text = await (await readAttachment(attachment)).text();
  const cells = parseCsv(text);
  if (cells.length < 2) throw new Error(t("chart.noRows", { name }));
  showBeside(tableOfCsv(name, text, cells, { attachment }));
}

export const isTable = (name: string): boolean => /\.(csv|tsv|tab)$/i.test(name);
