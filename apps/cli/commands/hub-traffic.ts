import type { Command } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import type { HubMessageShown, HubTwinShown } from "../hub-answers.ts";
import { print, printJson, table } from "../output.ts";
import { withHub } from "./hub.ts";

interface Json {
  json?: boolean;
}

interface SendOptions extends Json {
  property: string[];
  messageId?: string;
  expires: string;
}

/** `countersign hub device send | messages | twin | invoke`: what goes to a device. */
export function registerHubTraffic(device: Command): void {
  device
    .command("send")
    .argument("<id>", "device ID")
    .argument("<text>", "the message's body")
    .description("send a message to a device; it waits for the device until it is acknowledged or expires")
    .option("--property <name=value>", "a property of the message; may be repeated", collect, [])
    .option("--message-id <id>", "its message ID")
    .option("--expires <seconds>", "how long it waits", "3600")
    .option("--json", "machine-readable")
    .addHelpText("after", '\nExample:\n  $ countersign hub device send dev-1-0001 "turn left" --property speed=3')
    .action((id: string, text: string, options: SendOptions) =>
      withHub(async (client) => {
        const sent = await client.sendMessage(id, {
          body: Buffer.from(text).toString("base64"),
          properties: Object.fromEntries(options.property.map(pairOf)),
          expirySeconds: seconds(options.expires),
          ...(options.messageId === undefined ? {} : { messageId: options.messageId }),
        });
        if (options.json) return printJson(sent);
        print(`message ${sent.id} waits for ${id} until ${sent.expiresAt}`);
      }),
    );
  device
    .command("messages")
    .argument("<id>", "device ID")
    .description("messages that wait for a device")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign hub device messages dev-1-0001")
    .action((id: string, options: Json) =>
      withHub(async (client) => {
        const messages = await client.messages(id);
        if (options.json) return printJson(messages);
        print(table([["MESSAGE", "SENT", "EXPIRES", "DELIVERIES"], ...messages.map(messageRow)]));
      }),
    );
  device
    .command("twin")
    .argument("<id>", "device ID")
    .description("a device's twin: what is wanted of it and what it says of itself; --desired changes the former")
    .option("--desired <json>", "a patch of the desired properties (RFC 7396: null removes)")
    .option("--json", "machine-readable")
    .addHelpText("after", `\nExample:\n  $ countersign hub device twin dev-1-0001 --desired '{"interval": 30}'`)
    .action((id: string, options: Json & { desired?: string }) =>
      withHub(async (client) => {
        const { desired } = options;
        const twin = await (desired === undefined ? client.twin(id) : client.setDesired(id, parseJson(desired)));
        if (options.json) return printJson(twin);
        printTwin(twin);
      }),
    );
  device
    .command("invoke")
    .argument("<id>", "device ID")
    .argument("<method>", "the method's name")
    .description("call a method on a connected device and wait for its answer")
    .option("--payload <json>", "what the method is given", "null")
    .option("--timeout <seconds>", "how long to wait", "30")
    .option("--json", "machine-readable")
    .addHelpText("after", `\nExample:\n  $ countersign hub device invoke dev-1-0001 reboot --payload '{"delay": 5}'`)
    .action((id: string, method: string, options: Json & { payload: string; timeout: string }) =>
      withHub(async (client) => {
        const call = { payload: parseJson(options.payload), timeoutSeconds: seconds(options.timeout) };
        const answer = await client.invoke(id, method, call);
        if (options.json) return printJson(answer);
        print(`${answer.status} ${JSON.stringify(answer.payload)}`);
      }),
    );
}

function collect(value: string, before: string[]): string[] {
  return [...before, value];
}

function pairOf(text: string): [name: string, value: string] {
  const at = text.indexOf("=");
  if (at < 1) throw new CountersignError("usage", `--property takes name=value, not ${JSON.stringify(text)}`);
  return [text.slice(0, at), text.slice(at + 1)];
}

function seconds(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1)
    throw new CountersignError("usage", `not a number of seconds: ${text}`);
  return value;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw new CountersignError("usage", `not JSON: ${text.slice(0, 80)}`, { cause });
  }
}

function messageRow(message: HubMessageShown): string[] {
  return [String(message.id), message.enqueuedAt, message.expiresAt, String(message.deliveries)];
}

function printTwin(twin: HubTwinShown): void {
  print(`desired (version ${twin.desiredVersion})   ${JSON.stringify(twin.desired)}`);
  print(`reported (version ${twin.reportedVersion})  ${JSON.stringify(twin.reported)}`);
}
