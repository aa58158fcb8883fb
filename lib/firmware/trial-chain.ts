import { fromBase64 } from "../domain/bytes.ts";

/** Two certificates of the smallest kind (P-256, one name, no extension but the basic constraints). */
const LEAF =
  "MIIBODCB4KADAgECAhEAhL3gl+cZJSRRne3m4q4j2TAKBggqhkjOPQQDAjAUMRIwEAYDVQQDEwlUZXN0IENBIDEwHhcNMjYwMTAxMDAwMDAwWhcN" +
  "MzYwMTAxMDAwMDAwWjAXMRUwEwYDVQQDEwxsYXlvdXQtdHJpYWwwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATQFSRqNTySrRBiOrkb1Y/4o5MQ" +
  "ZRuDctZkTK7F2jsOOunLGeWEULzvhCmfjjfUGPnXxjBaSXKZNdcEf6gUo9dZoxAwDjAMBgNVHRMBAf8EAjAAMAoGCCqGSM49BAMCA0cAMEQCIEtc" +
  "3JirMrEfkSv7VpaMBGqnb5XAGbjS7kJgKbdrhi7qAiBI6y/ZZq9gjANMILHwPY9eXrd4rjHyPf/4SQHWwisw0w==";
const ISSUER =
  "MIIBOTCB36ADAgECAhBKQM0DASwhXkwq2xYqIAI1MAoGCCqGSM49BAMCMBQxEjAQBgNVBAMTCVRlc3QgUm9vdDAeFw0yNjAxMDEwMDAwMDBaFw0z" +
  "NjAxMDEwMDAwMDBaMBQxEjAQBgNVBAMTCVRlc3QgQ0EgMTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABKlpOrb5Ies6BAqttc8iCxAcF0ferg0i" +
  "pq0yeHt27Exq85vKVkzljly18JbgjcwUpuJV1347JjjwAV1mcznH5TCjEzARMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSQAwRgIhANeQ" +
  "YEMu41tJFX7jyXmdKlRiYWsm6EY75LQ2ots9ah9bAiEAmIV3FPm/cybBLCmmIV+6/BcvSpfgoZtWPQ49ZGHtc3o=";

/**
 * A device's chain that no real one is shorter than: what refuses this one refuses every device of a lot, so it is tried
 * when the lot is opened. Leaf first, DER.
 */
export function trialChain(): Uint8Array[] {
  return [LEAF, ISSUER].map(fromBase64);
}
