import { mount } from "svelte";

import "./app.css";
import App from "./App.svelte";
import { preferences } from "./state/preferences.svelte";
import { speak } from "./texts/texts";

preferences.applyTheme();
await speak();
mount(App, { target: document.getElementById("page") as HTMLElement });
