/** Draws a table with ECharts. This file is loaded only when a chart is wanted: it brings the library with it. */

import { BarChart, LineChart, ScatterChart } from "echarts/charts";
import { AriaComponent, DataZoomComponent, GridComponent, LegendComponent, TooltipComponent } from "echarts/components";
import * as echarts from "echarts/core";
import { CanvasRenderer } from "echarts/renderers";

import { column as columnOf } from "./cells";
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

/** How near to a point a press must be, as a share of the drawing's width and height. */
const NEAR = 0.05;
/** More points than this start zoomed in. */
const MANY = 400;

/** Draws into `node`; `ask` is told the row and the column of a point that is pressed. Returns what takes the drawing away. */
export function draw(node: HTMLElement, { table, kind, x, y, numeric }: Drawing, ask: ((row: number, column: number) => void) | null): () => void {
  const style = getComputedStyle(node);
  const ink = style.getPropertyValue("color");
  const chart = echarts.init(node, null, { renderer: "canvas" });
  const asValues = numeric && kind !== "bar";
  const many = table.rows.length > MANY;
  const along = columnOf(table, x).values;
  const values = y.map((column) => columnOf(table, column).values);
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
    series: y.map((column, series) => ({
      type: kind,
      name: table.columns[column] ?? "",
      sampling: kind === "line" ? "lttb" : undefined,
      showSymbol: table.rows.length < 80,
      symbolSize: 7,
      large: kind !== "line" && table.rows.length > 5000,
      data: values[series]?.map((value, row) => (asValues ? [along[row] ?? "-", value ?? "-"] : (value ?? "-"))) ?? [],
      cursor: ask ? "pointer" : "default",
    })),
  });
  // Not the series' own event: lines of many points have none, and thin bars and small points are hard to hit.
  const pressed = ({ offsetX, offsetY }: { offsetX: number; offsetY: number }): void => {
    if (!ask || !chart.containPixel({ gridIndex: 0 }, [offsetX, offsetY])) return;
    const found = nearest(offsetX, offsetY);
    if (found) ask(found.row, found.column);
  };
  /** The point that is drawn nearest to a pixel; where rows stand side by side, one of the row that is pressed. */
  function nearest(left: number, top: number): { row: number; column: number } | null {
    const [at = 0, height = 0] = chart.convertFromPixel({ gridIndex: 0 }, [left, top]) as number[];
    const [from = 0, low = 0] = chart.convertFromPixel({ gridIndex: 0 }, [0, node.clientHeight]) as number[];
    const [to = 1, high = 1] = chart.convertFromPixel({ gridIndex: 0 }, [node.clientWidth, 0]) as number[];
    const across = Math.abs(to - from) || 1;
    const up = Math.abs(high - low) || 1;
    let best: { row: number; column: number; far: number } | null = null;
    const only = asValues ? null : Math.round(at);
    values.forEach((column, series) => {
      for (let row = only ?? 0; row < (only === null ? column.length : only + 1); row++) {
        const value = column[row];
        const place = asValues ? along[row] : row;
        if (value === null || value === undefined || place === null || place === undefined) continue;
        const far = Math.hypot(asValues ? (place - at) / across : 0, (value - height) / up);
        if (!best || far < best.far) best = { row, column: y[series] ?? 0, far };
      }
    });
    const found = best as { row: number; column: number; far: number } | null;
    return found && (!asValues || found.far < NEAR) ? found : null;
  }
  chart.getZr().on("click", pressed);
  const observer = new ResizeObserver(() => chart.resize());
  observer.observe(node);
  return () => {
    observer.disconnect();
    chart.dispose();
  };
}
