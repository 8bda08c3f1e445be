import { mount } from "svelte";
import App from "./App.svelte";
import "./styles/base.css";
import "./styles/table.css";

const place = document.getElementById("page");
if (place === null) throw new Error("index.html has no place for the page");
mount(App, { target: place });
