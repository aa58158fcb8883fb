import { beforeAll, expect, it } from "vitest";
import { nodeVerify } from "../../hsm/index.ts";
import { type IssueOptions, testCertificate, type TestCertificate } from "../../test/support/test-pki.ts";
import { validateEkCertificate } from "./ek-certificate.ts";

const EK = "2.23.133.8.1";
const NAME = "2.23.133.2.1=id:54455354, 2.23.133.2.2=model, 2.23.133.2.3=id:00010002";
const dn = (value: string) => [{ type: "dn" as const, value }];

let root: TestCertificate;
let vendor: TestCertificate;
beforeAll(async () => {
  root = await testCertificate("CN=vendor root", { ca: true });
  vendor = await testCertificate("CN=vendor CA", { ca: true, issuer: root });
});

async function judged(change: IssueOptions = {}, subject = "CN=a TPM") {
  const sound: IssueOptions = { issuer: vendor, keyAgreement: true, eku: [EK], san: dn(NAME) };
  const ek = await testCertificate(subject, { ...sound, ...change });
  return await validateEkCertificate([ek.der, vendor.der], [root.der], new Date(), nodeVerify);
}

it("takes what TCG's profile has, and reads the TPM's name", async () => {
  const tpm = { manufacturer: "id:54455354", model: "model", version: "id:00010002" };
  expect(await judged()).toMatchObject(tpm);
  expect(await judged({ criticalSan: true }, "")).toMatchObject(tpm);
});

it.each<[string, IssueOptions, string?]>([
  ["no key purpose", { eku: [] }],
  ["another key purpose", { eku: ["1.3.6.1.5.5.7.3.2"] }],
  ["a key that signs", { keyAgreement: false }],
  ["a CA's", { ca: true }],
  ["no name of the TPM", { san: [{ type: "dns", value: "tpm.example" }] }],
  ["no version", { san: dn("2.23.133.2.1=id:54455354, 2.23.133.2.2=model") }],
  ["two models", { san: dn(`${NAME}, 2.23.133.2.2=other`) }],
  ["neither subject nor critical name", {}, ""],
  ["its end in the past", { notAfter: new Date(Date.now() - 1000) }],
])("refuses a certificate with %s", async (_what, change, subject) => {
  await expect(judged(change, subject)).rejects.toMatchObject({ code: "attestation-ek-untrusted" });
});

it("wants the whole path, nothing beside it, and one of the lot's roots", async () => {
  const options: IssueOptions = { issuer: vendor, keyAgreement: true, eku: [EK], san: dn(NAME) };
  const ek = await testCertificate("CN=a TPM", options);
  const other = await testCertificate("CN=another root", { ca: true });
  const untrusted = expect.objectContaining({ code: "attestation-ek-untrusted" });
  const validate = (chain: TestCertificate[], roots: TestCertificate[]) =>
    validateEkCertificate(
      chain.map(({ der }) => der),
      roots.map(({ der }) => der),
      new Date(),
      nodeVerify,
    );
  await expect(validate([ek, vendor], [other, root])).resolves.toBeDefined();
  await expect(validate([ek], [root])).rejects.toEqual(untrusted);
  await expect(validate([ek, vendor], [other])).rejects.toEqual(untrusted);
  await expect(validate([ek, vendor, other], [root])).rejects.toEqual(untrusted);
  await expect(validate([], [root])).rejects.toEqual(untrusted);
});
