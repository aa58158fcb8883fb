import type { HubCa } from "../../store/hub-cas.ts";
import type { HubDevice } from "../../store/hub-devices.ts";
import { html, type Html } from "./html.ts";

export const STYLE = `:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; }
nav a { margin-right: 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: 0.3rem 0.6rem; border-bottom: 1px solid #8888; overflow-wrap: anywhere; }
label { display: block; margin-top: 0.6rem; }
input, select { font: inherit; width: 100%; box-sizing: border-box; }
code { font-family: ui-monospace, monospace; }
button { font: inherit; margin: 0.6rem 0.6rem 0 0; padding: 0.3rem 1rem; }
[role="alert"] { border: 2px solid #c33; padding: 0.5rem 1rem; }
:focus-visible { outline: 3px solid #38f; outline-offset: 2px; }
`;

function layout(title: string, content: Html, fault?: string): Html {
  return html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <title>${title} - hub</title>
        <link rel="stylesheet" href="/style.css" />
      </head>
      <body>
        <nav aria-label="Pages"><a href="/">CAs</a><a href="/devices">Devices</a></nav>
        <main>
          <h1>${title}</h1>
          ${fault === undefined ? "" : html`<p role="alert">${fault}</p>`} ${content}
        </main>
      </body>
    </html>`;
}

export interface ShownAlarm {
  readonly party: string;
  readonly message: string;
  readonly since: Date;
}

export function homePage(
  cas: readonly HubCa[],
  totals: { devicesConnected: number },
  alarms: readonly ShownAlarm[],
  fault?: string,
): Html {
  const open = alarms.map(({ party, message, since }) => html`<li>${party}: ${message} (${since.toISOString()})</li>`);
  const rows = cas.map(
    (ca) =>
      html`<tr>
        <td><a href="/cas/${ca.name}">${ca.name}</a></td>
        <td>${stateOf(ca)}</td>
        <td><code>${ca.sha256}</code></td>
      </tr>`,
  );
  return layout(
    "Registered CAs",
    html`<p>${totals.devicesConnected} devices have connected.</p>
      ${
        alarms.length === 0
          ? ""
          : html`<div role="alert">
              <h2>Alarms</h2>
              <ul>
                ${open}
              </ul>
            </div>`
      }
      <table>
        <thead>
          <tr>
            <th scope="col">Name</th>
            <th scope="col">State</th>
            <th scope="col">SHA-256</th>
          </tr>
        </thead>
        <tbody>
          ${rows}
        </tbody>
      </table>
      <h2>Add a CA</h2>
      <form method="post" action="/cas" enctype="multipart/form-data">
        <label for="name">Name</label>
        <input id="name" name="name" required maxlength="64" autocomplete="off" />
        <label for="certificate">Certificate file (PEM or DER; may come with the verification)</label>
        <input id="certificate" name="certificate" type="file" accept=".pem,.cer,.crt,.der" />
        <button>Add and get a verification code</button>
      </form>`,
    fault,
  );
}

export function caPage(ca: HubCa, fault?: string): Html {
  return layout(
    `CA ${ca.name}`,
    html`<dl>
        <dt>State</dt>
        <dd>${stateOf(ca)}</dd>
        <dt>SHA-256</dt>
        <dd><code>${ca.sha256 ?? "not uploaded yet"}</code></dd>
        <dt>New devices</dt>
        <dd>${ca.enrolment === "registered" ? "only those created here before" : "created on first connect"}</dd>
      </dl>
      ${ca.state === "unverified" ? verification(ca) : ""} ${enrolmentForm(ca)} ${unloggedForm(ca)}
      <h2>Access</h2>
      ${button(`/cas/${ca.name}/${ca.disabledAt === null ? "disable" : "enable"}`, ca.disabledAt === null ? "Disable" : "Enable")}
      ${button(`/cas/${ca.name}/remove`, "Remove")}`,
    fault,
  );
}

function verification(ca: HubCa): Html {
  return html`<h2>Verify</h2>
    <p>Have the CA's key sign a certificate whose common name is this code, until ${ca.codeExpiresAt.toISOString()}:</p>
    <p><code id="code">${ca.code}</code></p>
    ${button(`/cas/${ca.name}/code`, "New code, if it has expired")}
    <form method="post" action="/cas/${ca.name}/verify" enctype="multipart/form-data">
      <label for="ca">The CA's certificate file (PEM or DER)</label>
      <input id="ca" name="ca" type="file" required accept=".pem,.cer,.crt,.der" />
      <label for="verification">The verification certificate file (PEM or DER)</label>
      <input id="verification" name="verification" type="file" required accept=".pem,.cer,.crt,.der" />
      <button>Verify</button>
    </form>`;
}

function enrolmentForm(ca: HubCa): Html {
  const choices = { "first-connect": "creates it", registered: "needs it created before" };
  const label = "A device's first connect";
  return choice(
    `/cas/${ca.name}/enrolment`,
    { name: "enrolment", label, choices, now: ca.enrolment },
    "Set first connect",
  );
}

function unloggedForm(ca: HubCa): Html {
  const choices = { allow: "is let in", alarm: "is let in, with an alarm", refuse: "is refused" };
  const label = "A certificate that no followed ledger holds";
  return choice(`/cas/${ca.name}/unlogged`, { name: "unlogged", label, choices, now: ca.unlogged }, "Set unlogged");
}

/** @param button says what it sets, for who hears the page's buttons alone */
function choice(
  action: string,
  field: { name: string; label: string; choices: Readonly<Record<string, string>>; now: string },
  button: string,
): Html {
  const options = Object.entries(field.choices).map(([value, text]) =>
    value === field.now
      ? html`<option value="${value}" selected>${text}</option>`
      : html`<option value="${value}">${text}</option>`,
  );
  return html`<form method="post" action="${action}">
    <label for="${field.name}">${field.label}</label>
    <select id="${field.name}" name="${field.name}">
      ${options}
    </select>
    <button>${button}</button>
  </form>`;
}

export function devicesPage(devices: readonly HubDevice[], limit: number, fault?: string): Html {
  const rows = devices.map(
    (one) =>
      html`<tr>
        <td><a href="/devices/${encodeURIComponent(one.deviceId)}">${one.deviceId}</a></td>
        <td>${one.state}</td>
        <td>${one.caName}</td>
        <td>${one.lastConnectedAt?.toISOString()}</td>
      </tr>`,
  );
  const last = devices.length === limit ? devices.at(-1) : undefined;
  return layout(
    "Devices",
    html`<table>
        <thead>
          <tr>
            <th scope="col">Device</th>
            <th scope="col">State</th>
            <th scope="col">CA</th>
            <th scope="col">Last connect</th>
          </tr>
        </thead>
        <tbody>
          ${rows}
        </tbody>
      </table>
      ${last === undefined ? "" : html`<p><a href="/devices?after=${encodeURIComponent(last.deviceId)}">Next</a></p>`}
      <h2>Create a device</h2>
      <form method="post" action="/devices">
        <label for="id">Device ID (X.509, signed by a registered CA)</label>
        <input id="id" name="id" required maxlength="64" autocomplete="off" />
        <button>Create</button>
      </form>`,
    fault,
  );
}

export function devicePage(device: HubDevice, telemetry: number, fault?: string): Html {
  const path = `/devices/${encodeURIComponent(device.deviceId)}`;
  const links = (device.chain ?? []).map(
    (link) =>
      html`<tr>
        <td>${link.commonName}</td>
        <td><code>${link.sha256}</code></td>
        <td>${link.notAfter}</td>
      </tr>`,
  );
  return layout(
    `Device ${device.deviceId}`,
    html`<dl>
        <dt>State</dt>
        <dd>${device.state}</dd>
        <dt>Registered CA</dt>
        <dd>${device.caName ?? "known from its first connect on"}</dd>
        <dt>Last connect</dt>
        <dd>${device.lastConnectedAt?.toISOString() ?? "never"}</dd>
        <dt>Messages</dt>
        <dd>${telemetry}</dd>
      </dl>
      <table>
        <caption>
          Chain, the device first
        </caption>
        <tbody>
          ${links}
        </tbody>
      </table>
      ${button(`${path}/${device.state === "enabled" ? "disable" : "enable"}`, device.state === "enabled" ? "Disable" : "Enable")}
      ${button(`${path}/remove`, "Remove")}`,
    fault,
  );
}

function button(action: string, text: string): Html {
  return html`<form method="post" action="${action}"><button>${text}</button></form>`;
}

function stateOf(ca: HubCa): string {
  if (ca.disabledAt !== null) return "Disabled";
  return ca.state === "verified" ? "Verified" : "Unverified";
}
