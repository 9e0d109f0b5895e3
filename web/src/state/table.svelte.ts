/** A table on its way from an answer to the chart. */

export interface Table {
  name: string;
  columns: string[];
  rows: string[][];
}

class Handed {
  table = $state.raw<Table | null>(null);
}

export const handed = new Handed();

/** The first row names the columns. */
export function handOver(name: string, cells: string[][]): void {
  const [columns = [], ...rows] = cells;
  handed.table = { name, columns, rows };
}
