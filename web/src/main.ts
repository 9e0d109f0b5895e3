import { mount } from "svelte";

import "./app.css";
import App from "./App.svelte";
import { keepFocus } from "./focus";
import { preferences } from "./state/preferences.svelte";
import { speak } from "./texts/texts";

preferences.applyTheme();
keepFocus();
await speak();
mount(App, { target: document.getElementById("page") as HTMLElement });
