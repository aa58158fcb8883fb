import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { deviceIdOfUsername, parseEventTopic } from "./topics.ts";

describe("usernames", () => {
  it.each([
    ["localhost/dev-1/?api-version=2021-04-12&DeviceClientType=azure-iot-device%2F1.18.4", "dev-1"],
    ["localhost:18883/dev-1/?api-version=2021-04-12", "dev-1"],
    ["hub.example/dev:1/?api-version=2019-10-01&DeviceClientType=py-iot", "dev:1"],
    ["hub.example/dev-1?api-version=2021-04-12", "dev-1"],
  ])("%s", (username, id) => expect(deviceIdOfUsername(username)).toBe(id));

  it.each([
    "",
    "dev-1",
    "localhost/dev-1/",
    "localhost/dev-1/module/?api-version=2021-04-12",
    "localhost/dev 1/?api-version=2021-04-12",
    "localhost//?api-version=2021-04-12",
    "localhost/-dev/?api-version=2021-04-12",
    `localhost/${"d".repeat(65)}/?api-version=2021-04-12`,
    `localhost/dev-1/?${"x".repeat(1100)}&api-version=2021-04-12`,
  ])("refuses %s", (username) => expect(deviceIdOfUsername(username)).toBeUndefined());
});

describe("event topics", () => {
  it("separate the system's properties from the sender's", () => {
    const bag = "%24.mid=m-1&%24.ct=application%2Fjson&%24.ce=utf-8&temperatureAlert=true";
    expect(parseEventTopic(`devices/dev-1/messages/events/${bag}`, "dev-1")).toEqual({
      system: { "$.mid": "m-1", "$.ct": "application/json", "$.ce": "utf-8" },
      properties: { temperatureAlert: "true" },
    });
  });

  it.each(["devices/dev-1/messages/events", "devices/dev-1/messages/events/"])("%s has no properties", (topic) =>
    expect(parseEventTopic(topic, "dev-1")).toEqual({ system: {}, properties: {} }),
  );

  it.each([
    "devices/dev-2/messages/events/",
    "devices/dev-1/messages/eventsx",
    "devices/dev-1/module/messages/events/",
    "devices/dev-1/messages/events/a=b/c",
    "devices/dev-1/messages/events/a=%zz",
    "devices/dev-1/messages/events/a=%00",
    "devices/dev-1/messages/events/=b",
    "devices/dev-1/messages/devicebound/",
    "$iothub/twin/GET/?$rid=1",
    `devices/dev-1/messages/events/${Array.from({ length: 129 }, (_, i) => `p${i}=1`).join("&")}`,
  ])("refuse %s", (topic) => expect(parseEventTopic(topic, "dev-1")).toBeUndefined());

  it("give back whatever properties were encoded into them", () => {
    const name = fc
      .string({ unit: "grapheme", minLength: 1 })
      .filter((text) => !text.includes("\0") && !text.startsWith("$."));
    const value = fc.string({ unit: "grapheme" }).filter((text) => !text.includes("\0"));
    fc.assert(
      fc.property(fc.dictionary(name, value, { maxKeys: 20 }), (properties) => {
        const bag = Object.entries(properties).map(
          ([key, text]) => `${encodeURIComponent(key)}=${encodeURIComponent(text)}`,
        );
        const parsed = parseEventTopic(`devices/d/messages/events/${bag.join("&")}`, "d");
        expect({ ...parsed?.properties }).toEqual({ ...properties });
      }),
    );
  });

  it("never throw, and take no name for a prototype's", () => {
    fc.assert(fc.property(fc.string(), (text) => void parseEventTopic(`devices/d/messages/events/${text}`, "d")));
    const parsed = parseEventTopic("devices/d/messages/events/__proto__=1&constructor=2", "d");
    expect(Object.keys(parsed?.properties ?? {})).toEqual(["__proto__", "constructor"]);
  });
});
