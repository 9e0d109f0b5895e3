/** Every word the page shows comes through `t`, so that a language is one more catalogue and nothing else. */

import { en } from "./en";

export type TextKey = keyof typeof en;
type Values = Record<string, string | number>;
/** A text, or one for each form of number that the language has; `other` stands for those it does not name. */
export type Entry = string | ({ other: string } & Partial<Record<Intl.LDMLPluralRule, string>>);
export type Catalogue = Record<TextKey, Entry>;

interface Language {
  /** Its own name for itself. */
  name: string;
  direction: "ltr" | "rtl";
  load: () => Promise<Catalogue>;
}

/** A new language is a file beside `en.ts` with the same keys, and a line here. All but English are loaded when they are spoken. */
export const languages: Record<string, Language> = {
  en: { name: "English", direction: "ltr", load: () => Promise.resolve(en) },
  ar: { name: "العربية", direction: "rtl", load: () => import("./ar").then(({ ar }) => ar) },
};

const STORE = "steelyard.language";

export let language = "en";
let catalogue: Catalogue = en;
let plural = new Intl.PluralRules(language);
let decimal = new Intl.NumberFormat(language, { maximumFractionDigits: 1 });
let dates = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });
let days = new Intl.DateTimeFormat(language, { dateStyle: "medium" });

/** Speaks the language that was chosen here, else the first one that the browser wants and the page has. Before anything is shown. */
export async function speak(): Promise<void> {
  const wanted = [localStorage.getItem(STORE) ?? "", ...navigator.languages.map((tag) => tag.split("-")[0] ?? "")];
  const found = wanted.find((name) => Object.hasOwn(languages, name)) ?? "en";
  const chosen = languages[found];
  if (!chosen) return;
  catalogue = await chosen.load();
  language = found;
  document.documentElement.lang = language;
  document.documentElement.dir = chosen.direction;
  plural = new Intl.PluralRules(language);
  decimal = new Intl.NumberFormat(language, { maximumFractionDigits: 1 });
  dates = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });
  days = new Intl.DateTimeFormat(language, { dateStyle: "medium" });
}

/** Chooses a language for this browser. The page begins anew in it; messages that wait stay. */
export function choose(name: string): void {
  localStorage.setItem(STORE, name);
  location.reload();
}

/** The text of `key`, its `{names}` filled in; `n` chooses the form of number. */
export function t(key: TextKey, values: Values = {}): string {
  const entry = catalogue[key];
  const text = typeof entry === "string" ? entry : (entry[plural.select(Number(values.n))] ?? entry.other);
  return text.replace(/\{(\w+)\}/g, (whole, name: string) => {
    const value = values[name];
    return value === undefined ? whole : typeof value === "number" ? decimal.format(value) : value;
  });
}

export const percent = (share: number): string =>
  new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: share < 0.1 || share > 0.99 ? 1 : 0 }).format(share);

/** A short time as people say it: 20 ms, 1.4 s. */
export const seconds = (time: number): string => (time < 1 ? t("time.milliseconds", { n: Math.round(time * 1000) }) : t("time.seconds", { n: time }));

/** Energy, as one figure where both ends are the same on two digits. */
export function joules(low: number, high: number): string {
  const short = new Intl.NumberFormat(language, { maximumSignificantDigits: 2 });
  const [from, to] = [short.format(low), short.format(high)];
  return from === to ? t("energy.one", { n: to }) : t("energy.range", { low: from, high: to });
}

export const day = (iso: string): string => (Number.isNaN(Date.parse(iso)) ? "" : days.format(Date.parse(iso)));

export const when = (iso: string | undefined): string => {
  const time = iso ? Date.parse(iso) : Number.NaN;
  return Number.isNaN(time) ? "" : dates.format(time);
};
