/** Every word the page shows comes through `t`, so that a language is one more catalogue and nothing else. */

import { en } from "./en";

export type TextKey = keyof typeof en;
type Values = Record<string, string | number>;
type Entry = string | { one: string; other: string };

/** Catalogues by language. A new one is a file beside `en.ts` with the same keys; `direction` turns the page round. */
const catalogues: Record<string, { direction: "ltr" | "rtl"; texts: Record<TextKey, Entry> }> = {
  en: { direction: "ltr", texts: en },
};

const language = navigator.languages.map((tag) => tag.split("-")[0] ?? "").find((tag) => tag in catalogues) ?? "en";
const catalogue = catalogues[language] ?? { direction: "ltr" as const, texts: en };
document.documentElement.lang = language;
document.documentElement.dir = catalogue.direction;

const plural = new Intl.PluralRules(language);
const decimal = new Intl.NumberFormat(language, { maximumFractionDigits: 1 });
const dates = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });

/** The text of `key`, its `{names}` filled in; `n` chooses singular or plural. */
export function t(key: TextKey, values: Values = {}): string {
  const entry: Entry = catalogue.texts[key];
  const text = typeof entry === "string" ? entry : plural.select(Number(values.n)) === "one" ? entry.one : entry.other;
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

const days = new Intl.DateTimeFormat(language, { dateStyle: "medium" });
export const day = (iso: string): string => (Number.isNaN(Date.parse(iso)) ? "" : days.format(Date.parse(iso)));

export const when = (iso: string | undefined): string => {
  const time = iso ? Date.parse(iso) : Number.NaN;
  return Number.isNaN(time) ? "" : dates.format(time);
};
