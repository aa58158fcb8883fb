import { generateKeyPairSync, sign } from "node:crypto";
import { CountersignError } from "../../lib/domain/errors.ts";
import { canonicalJson } from "../../lib/domain/json.ts";
import type { Signer } from "../../lib/domain/signing.ts";
import {
  checkLayout,
  trialChain,
  type FirmwareFormat,
  type FirmwareTemplate,
  type Layout,
} from "../../lib/firmware/index.ts";
import { firmwareFormat } from "./formats.ts";
import { digestOf, openImage, type ImageFile } from "./image-file.ts";

/** Template images: opened, pinned by digest, parsed once and found to fit their layout. */

export interface TemplateRequest {
  readonly format: string;
  readonly templatePath: string;
  /** refuses a template with another digest (hex), as pinned when the lot was opened */
  readonly templateSha256?: string | undefined;
  readonly layout: Layout;
  /** for formats that sign the image again */
  readonly signer?: Signer | undefined;
}

export interface PreparedTemplate {
  readonly format: FirmwareFormat;
  readonly image: ImageFile;
  /** hex */
  readonly sha256: string;
  readonly template: FirmwareTemplate;
  close(): Promise<void>;
}

/** Templates that are held, by all that they depend on: a lot's batches follow each other with the same one. */
const recent = new Map<string, PreparedTemplate>();
const RECENT = 4;

/**
 * Reads a template and checks the layout against it. Whoever prepares one closes it.
 * @throws CountersignError `component-missing`, `usage`, and those of `FirmwareFormat.open`
 */
export async function prepareTemplate(request: TemplateRequest): Promise<PreparedTemplate> {
  const { format: name, layout, signer, templatePath, templateSha256 } = request;
  const format = firmwareFormat(name);
  checkLayout(format, layout);
  const key =
    templateSha256 === undefined || format.signs === true
      ? undefined
      : Buffer.from(canonicalJson([name, templatePath, templateSha256, JSON.stringify(layout)])).toString();
  const known = key === undefined ? undefined : recent.get(key);
  if (known !== undefined) return known;
  const image = await openImage(templatePath).catch((cause: unknown) => {
    throw new CountersignError("component-missing", `the template image ${templatePath} can't be read`, { cause });
  });
  try {
    const sha256 = await digestOf(image);
    if (templateSha256 !== undefined && templateSha256 !== sha256) {
      throw new CountersignError(
        "image-invalid",
        `the template image ${templatePath} has SHA-256 ${sha256}, the lot was opened for ${templateSha256}`,
      );
    }
    const template = await format.open(image, layout, signer);
    const prepared = { format, image, sha256, template, close: () => image.close() };
    if (key !== undefined && image.bytes !== undefined) remember(key, prepared);
    return prepared;
  } catch (error) {
    await image.close();
    throw error;
  }
}

/**
 * For a lot that is being opened: what would refuse every device of it is refused now. No token signs for it.
 * @returns the template's digest (hex)
 * @throws CountersignError as `prepareTemplate` and `FirmwareTemplate.inject`
 */
export async function validateLayout(request: TemplateRequest): Promise<{ sha256: string; warning?: string }> {
  const prepared = await prepareTemplate({ ...request, signer: trialSigner() });
  const { format, sha256, template } = prepared;
  try {
    await template.inject(trialChain());
    return { sha256, ...(format.warning === undefined ? {} : { warning: format.warning }) };
  } finally {
    await prepared.close();
  }
}

/** A key that goes with the trial, as the image does that it signs. */
function trialSigner(): Signer {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  return {
    spki: new Uint8Array(publicKey.export({ type: "spki", format: "der" })),
    algorithm: "ecdsa-p256-sha256",
    sign: async (message) => new Uint8Array(sign("sha256", message, privateKey)),
  };
}

function remember(key: string, prepared: PreparedTemplate): void {
  recent.set(key, prepared);
  for (const oldest of recent.keys()) {
    if (recent.size <= RECENT) break;
    recent.delete(oldest);
  }
}
