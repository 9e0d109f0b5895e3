/** Draws a table with ECharts. This file is loaded only when a chart is wanted: it brings the library with it. */

import { BarChart, LineChart, ScatterChart } from "echarts/charts";
import { AriaComponent, DataZoomComponent, GridComponent, LegendComponent, TooltipComponent } from "echarts/components";
import * as echarts from "echarts/core";
import { CanvasRenderer } from "echarts/renderers";

import { numberOf } from "./csv";
import type { Table } from "./state/table.svelte";

echarts.use([BarChart, LineChart, ScatterChart, GridComponent, TooltipComponent, LegendComponent, DataZoomComponent, AriaComponent, CanvasRenderer]);

export type ChartKind = "bar" | "line" | "scatter";

export interface Drawing {
  table: Table;
  kind: ChartKind;
  x: number;
  y: number[];
  /** Whether x is numbers, so that distances along it mean something. */
  numeric: boolean;
}

/** More points than this start zoomed in. */
const MANY = 400;

export function draw(node: HTMLElement, { table, kind, x, y, numeric }: Drawing): () => void {
  const style = getComputedStyle(node);
  const ink = style.getPropertyValue("color");
  const chart = echarts.init(node, null, { renderer: "canvas" });
  const asValues = numeric && kind !== "bar";
  const many = table.rows.length > MANY;
  chart.setOption({
    animationDuration: 250,
    aria: { enabled: true },
    color: ["#2a9d8f", "#e07a3f", "#5b7fd6", "#c2568f", "#8a9a3b", "#8f6bd1", "#c9a227"],
    textStyle: { fontFamily: style.fontFamily, color: ink },
    grid: { left: 12, right: 24, top: 48, bottom: many ? 56 : 16, containLabel: true },
    legend: { type: "scroll", top: 8, textStyle: { color: ink } },
    // rich text, not HTML: the page's content policy allows no inline styles
    tooltip: { trigger: kind === "scatter" ? "item" : "axis", renderMode: "richText" },
    dataZoom: many ? [{ type: "slider", bottom: 8 }, { type: "inside" }] : [],
    xAxis: asValues
      ? { type: "value", name: table.columns[x], scale: true, axisLabel: { color: ink } }
      : { type: "category", data: table.rows.map((row) => row[x] ?? ""), axisLabel: { color: ink } },
    yAxis: { type: "value", scale: kind !== "bar", axisLabel: { color: ink }, splitLine: { lineStyle: { color: "rgba(128, 128, 128, 0.25)" } } },
    series: y.map((column) => ({
      type: kind,
      name: table.columns[column] ?? "",
      sampling: kind === "line" ? "lttb" : undefined,
      showSymbol: table.rows.length < 80,
      symbolSize: 7,
      large: kind !== "line" && table.rows.length > 5000,
      data: table.rows.map((row) => {
        const value = numberOf(row[column] ?? "");
        const shown = Number.isNaN(value) ? "-" : value;
        return asValues ? [numberOf(row[x] ?? ""), shown] : shown;
      }),
    })),
  });
  const observer = new ResizeObserver(() => chart.resize());
  observer.observe(node);
  return () => {
    observer.disconnect();
    chart.dispose();
  };
}
