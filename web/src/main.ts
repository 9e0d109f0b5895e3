import { mount } from "svelte";

import "./app.css";
import App from "./App.svelte";
import { preferences } from "./state/preferences.svelte";

preferences.applyTheme();
mount(App, { target: document.getElementById("page") as HTMLElement });
