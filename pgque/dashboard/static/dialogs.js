// Modal dialogs: a confirmation, the token, and a message in full.

import { change, hasToken, keepToken } from "./api.js";
import { el, newId, say } from "./dom.js";
import { count, moment, pretty } from "./format.js";

function open(dialog) {
  document.body.append(dialog);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.showModal();
}

/** Ask for confirmation. Resolves to whether the user confirmed. */
export function confirm(title, text, action, { danger = false } = {}) {
  return new Promise((answer) => {
    const id = newId("dialog");
    const dialog = el(
      "dialog",
      { "aria-labelledby": id, "aria-describedby": `${id}-text` },
      el("h2", { id }, title),
      el("p", { id: `${id}-text` }, text),
      el(
        "div",
        { class: "buttons" },
        el("button", { type: "button", autofocus: true, onclick: () => dialog.close() }, "Cancel"),
        el(
          "button",
          { type: "button", class: danger ? "danger" : "action", onclick: () => dialog.close("yes") },
          action,
        ),
      ),
    );
    dialog.addEventListener("close", () => answer(dialog.returnValue === "yes"));
    open(dialog);
  });
}

/** Ask for the token. Resolves to whether the user entered the right one. */
export function askForToken(why) {
  return new Promise((answer) => {
    const id = newId("dialog");
    const input = el("input", { type: "password", id: `${id}-input`, autocomplete: "off", required: true, spellcheck: "false" });
    const wrong = el("p", { class: "wrong", role: "alert" });
    const forget = hasToken()
      ? el("button", { type: "button", onclick: () => (keepToken(null), dialog.close("forgotten")) }, "Forget token")
      : null;
    const dialog = el(
      "dialog",
      { "aria-labelledby": id },
      el("h2", { id }, "Token"),
      el("p", {}, why),
      el(
        "form",
        {
          onsubmit: async (event) => {
            event.preventDefault();
            const given = input.value.trim();
            try {
              if (!/^[!-~]+$/.test(given)) throw new Error("This is not a valid token.");
              keepToken(given);
              await change("token", {});
              dialog.close("yes");
            } catch (error) {
              keepToken(null);
              say(wrong, error.message);
              input.focus();
              input.select();
            }
          },
        },
        el("label", { for: input.id }, "The token that the dashboard was started with"),
        input,
        wrong,
        el("p", { class: "hint" }, "This tab keeps the token until you close it."),
        el(
          "div",
          { class: "buttons" },
          forget,
          el("button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
          el("button", { type: "submit", class: "action" }, "Use token"),
        ),
      ),
    );
    dialog.addEventListener("close", () => answer(dialog.returnValue === "yes"));
    open(dialog);
    input.focus();
  });
}

/** Show a message, a retry or a dead letter in full. */
export function showMessage(title, row, buttons = [], hint = "") {
  const id = newId("dialog");
  const facts = [
    ["Dead letter", row.letter],
    [row.letter === undefined ? "Id" : "Event", row.id],
    ["Type", row.type],
    ["Key", row.key],
    ["Sent", row.created && moment(row.created)],
    ["Consumer", row.consumer],
    ["Died", row.died && moment(row.died)],
    ["Due", row.due && moment(row.due)],
    ["Retries", row.retries],
    ["Reason", row.reason],
    ["Headers", row.headers],
    ["extra3", row.extra3],
    ["extra4", row.extra4],
  ].filter(([, value]) => value != null);
  const cut = row.payload != null && row.length > [...row.payload].length;
  const formatted = row.payload == null || cut ? null : pretty(row.payload);
  const payload = el("pre", { tabindex: "0", "aria-label": "Payload" }, formatted ?? row.payload ?? "NULL");
  const asStored = el("input", {
    type: "checkbox",
    onchange: (event) => say(payload, event.target.checked ? row.payload : formatted),
  });
  const size = row.length == null ? "" : `${count(row.length)} characters`;
  const dialog = el(
    "dialog",
    { class: "wide", "aria-labelledby": id },
    el("h2", { id }, title),
    el("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))])),
    el(
      "div",
      { class: "bar" },
      el("h3", {}, "Payload"),
      el("span", { class: "hint" }, cut ? `${size}, cut` : size),
      formatted !== null && formatted !== row.payload ? el("label", {}, asStored, " As stored") : null,
    ),
    payload,
    hint ? el("p", { class: "hint" }, hint) : null,
    el(
      "div",
      { class: "buttons" },
      ...buttons.map(({ text, run }) =>
        el("button", { type: "button", onclick: () => (dialog.close(), run()) }, text),
      ),
      el("button", { type: "button", autofocus: true, onclick: () => dialog.close() }, "Close"),
    ),
  );
  open(dialog);
}
