/** What a person points at: told by the server, shown as it will be sent, and kept until the message is sent or it is taken out. */

import { attach, tellPlace } from "../api/calls";
import type { PlacePart, PlaceSource, PointedPart, Selection } from "../api/types";
import { t } from "../texts/texts";
import { turns } from "../turns";
import { attempt, notices } from "./notices.svelte";
import { handed, type Table } from "./table.svelte";

const same = (one: Pick<PointedPart, "source" | "selection">, other: Pick<PointedPart, "source" | "selection">): boolean =>
  keyOf(one.source) === keyOf(other.source) && keyOf(one.selection) === keyOf(other.selection);

/** JSON with sorted keys, so that what came from the server equals what was sent to it. */
const keyOf = (value: object): string => JSON.stringify(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));

class Places {
  pending = $state.raw<PlacePart[]>([]);
  /** Whether the next answer is to be one of the figures. */
  quote = $state(false);
  figures = $derived(this.pending.some((place) => place.figures.length > 0));
  /** What was pointed at before is told first, so that places stand in the order of pointing and a second press finds the first. */
  #inTurn = turns();

  /** Points at something; pointing at it again takes it out. Returns whether the server could tell of it. */
  point(pointed: PointedPart): Promise<boolean> {
    return this.#inTurn(() => this.#tell(pointed));
  }

  /** Points into a table; one that is only in this browser yet is sent to the server first. */
  pointInto(table: Table, selection: Selection, shown: string | null): Promise<boolean> {
    return this.#inTurn(async () => {
      if (table.source === null) return false;
      if (table.source instanceof File) {
        const file = table.source;
        const sent = await attempt(async () => {
          const { id } = await attach(file);
          table.source = { attachment: id };
          if (handed.table === table) handed.table = { ...table };
        });
        if (!sent || table.source instanceof File) return false;
      }
      return this.#tell({ type: "place", source: table.source, selection, shown });
    });
  }

  async #tell(pointed: PointedPart): Promise<boolean> {
    const there = this.pending.find((place) => same(place, pointed));
    if (there) {
      this.remove(there);
      return true;
    }
    return attempt(async () => {
      const place = await tellPlace(pointed);
      if (this.pending.some((other) => same(other, place))) return;
      this.pending = [...this.pending, place];
      notices.say(t("place.added", { label: place.label }));
    });
  }

  has(source: PlaceSource, selection: Selection): boolean {
    return this.pending.some((place) => same(place, { source, selection }));
  }

  remove(place: PlacePart): void {
    this.pending = this.pending.filter((other) => other !== place);
    notices.say(t("place.removed", { label: place.label }));
  }

  /** What goes with the message that is sent now. */
  take(): PlacePart[] {
    const taken = this.pending;
    this.pending = [];
    return taken;
  }

  /** Another conversation was opened: places in messages of the old one mean nothing there. */
  leave(): void {
    this.pending = this.pending.filter((place) => "attachment" in place.source);
  }
}

export const places = new Places();

/** A stored or told place as a client sends it: where it is, and nothing of what was computed. */
export const pointedOf = ({ source, selection }: PlacePart): PointedPart => ({ type: "place", source, selection });
