import { randomBytes } from "node:crypto";
import { concatBytes } from "../../../lib/domain/bytes.ts";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { type Credential, readPublic, tpm2b, TpmReader, u16, u32 } from "../../../lib/attestation/index.ts";
import { openTpm, type TpmTransport } from "./transport.ts";

/** TPM_CC (TPM 2.0 Library Part 2 section 6.5.2) */
const CC = {
  createPrimary: 0x131,
  activateCredential: 0x147,
  certify: 0x148,
  nvRead: 0x14e,
  policySecret: 0x151,
  create: 0x153,
  load: 0x157,
  sign: 0x15d,
  unseal: 0x15e,
  flushContext: 0x165,
  nvReadPublic: 0x169,
  readPublic: 0x173,
  startAuthSession: 0x176,
  getCapability: 0x17a,
} as const;

export const HIERARCHY = { owner: 0x40000001, endorsement: 0x4000000b } as const;
const RH_NULL = 0x40000007;
const RS_PW = 0x40000009;
const ALG_NULL = 0x0010;
const ALG_SHA256 = 0x000b;
const NV_CHUNK = 512;
/** TPM_RC_YIELDED, TESTING and RETRY: the same command is to be sent again. */
const AGAIN = new Set([0x908, 0x90a, 0x922]);

type Auth = { readonly session: number } | Uint8Array;
const NO_AUTH = new Uint8Array();

export interface LoadedKey {
  readonly handle: number;
  /** TPMT_PUBLIC */
  readonly publicArea: Uint8Array;
}

/**
 * The few TPM 2 commands (Part 3) that a device needs to attest its key, with authorization values in the clear: for a TPM
 * on the device's own board. Whatever is loaded is flushed by {@link Tpm.close}, for TPMs without a resource manager.
 */
export class Tpm {
  readonly #transport: TpmTransport;
  readonly #loaded = new Set<number>();

  private constructor(transport: TpmTransport) {
    this.#transport = transport;
  }

  /** @throws as {@link openTpm} */
  static async open(tcti: string): Promise<Tpm> {
    return new Tpm(await openTpm(tcti));
  }

  async close(): Promise<void> {
    await this.flushAll().catch(() => undefined);
    await this.#transport.close();
  }

  /** Takes everything that was loaded or made here out of the TPM's few slots. */
  async flushAll(): Promise<void> {
    for (const handle of this.#loaded) await this.flush(handle);
  }

  /**
   * Flushes every object that somebody left loaded. Behind a resource manager there is nobody else's; a TPM without one
   * has one user, and few slots that a process which was killed doesn't free.
   */
  async flushLeftOvers(): Promise<void> {
    const handles = [u32(1), u32(0x80000000), u32(64)];
    const { parameters } = await this.#run(CC.getCapability, [], undefined, handles);
    parameters.take(1 + 4);
    for (let left = parameters.u32(); left > 0; left--) await this.flush(parameters.u32());
  }

  /** What the NV index holds; undefined where there is none. */
  async nvRead(index: number): Promise<Uint8Array | undefined> {
    const found = await this.#run(CC.nvReadPublic, [index], undefined, []).catch(unlessAbsent);
    if (found === undefined) return undefined;
    const reader = new TpmReader(found.parameters.buffer(256), "an NV index");
    reader.take(10);
    reader.buffer(64);
    const size = reader.u16();
    const parts: Uint8Array[] = [];
    for (let at = 0; at < size; at += NV_CHUNK) {
      const length = Math.min(NV_CHUNK, size - at);
      const { parameters } = await this.#run(CC.nvRead, [index, index], [NO_AUTH], [u16(length), u16(at)]);
      parts.push(parameters.buffer(NV_CHUNK));
    }
    return concatBytes(...parts);
  }

  /** The same hierarchy and template give the same key for as long as the TPM's seed stays. @param template TPMT_PUBLIC */
  async createPrimary(hierarchy: number, template: Uint8Array): Promise<LoadedKey> {
    const sensitive = tpm2b(concatBytes(tpm2b(NO_AUTH), tpm2b(NO_AUTH)));
    const command = [sensitive, tpm2b(template), tpm2b(NO_AUTH), u32(0)];
    const { handle, parameters } = await this.#run(CC.createPrimary, [hierarchy], [NO_AUTH], command, true);
    return { handle: handle!, publicArea: parameters.buffer(1024) };
  }

  /** @returns TPM2B contents: the private part is wrapped by the parent */
  async create(parent: number, template: Uint8Array): Promise<{ wrapped: Uint8Array; publicArea: Uint8Array }> {
    const sensitive = tpm2b(concatBytes(tpm2b(NO_AUTH), tpm2b(NO_AUTH)));
    const command = [sensitive, tpm2b(template), tpm2b(NO_AUTH), u32(0)];
    const { parameters } = await this.#run(CC.create, [parent], [NO_AUTH], command);
    return { wrapped: parameters.buffer(2048), publicArea: parameters.buffer(1024) };
  }

  async load(parent: number, wrapped: Uint8Array, publicArea: Uint8Array, parentAuth: Uint8Array = NO_AUTH) {
    const { handle } = await this.#run(CC.load, [parent], [parentAuth], [tpm2b(wrapped), tpm2b(publicArea)], true);
    return { handle: handle!, publicArea } satisfies LoadedKey;
  }

  async readPublic(handle: number): Promise<Uint8Array> {
    return (await this.#run(CC.readPublic, [handle], undefined, [])).parameters.buffer(1024);
  }

  async unseal(handle: number, auth: Uint8Array): Promise<Uint8Array> {
    return (await this.#run(CC.unseal, [handle], [auth], [])).parameters.buffer(256);
  }

  /** Opens what was encrypted for the endorsement key and bound to the Name of `ak`. @returns the secret */
  async activateCredential(ak: number, ek: number, { idObject, encryptedSecret }: Credential): Promise<Uint8Array> {
    const auth = await this.#authOf(ek);
    const { parameters } = await this.#run(
      CC.activateCredential,
      [ak, ek],
      [NO_AUTH, auth],
      [idObject, encryptedSecret],
    );
    // Used once, without continueSession: it is gone.
    if ("session" in auth) this.#loaded.delete(auth.session);
    return parameters.buffer(64);
  }

  /** By the profile's low templates an endorsement key is used by who may use its hierarchy (PolicyA), by the high ones by anybody. */
  async #authOf(ek: number): Promise<Auth> {
    const { attributes } = readPublic(await this.readPublic(ek), "the endorsement key");
    if (attributes.has("userWithAuth")) return NO_AUTH;
    const sessionType = Uint8Array.of(1);
    const start = [tpm2b(randomBytes(16)), tpm2b(NO_AUTH), sessionType, u16(ALG_NULL), u16(ALG_SHA256)];
    const { handle } = await this.#run(CC.startAuthSession, [RH_NULL, RH_NULL], undefined, start, true);
    const session = handle!;
    const nothing = tpm2b(NO_AUTH);
    const secretOf = [nothing, nothing, nothing, u32(0)];
    await this.#run(CC.policySecret, [HIERARCHY.endorsement, session], [NO_AUTH], secretOf);
    return { session };
  }

  /** TPM2_Certify. @returns TPMS_ATTEST and TPMT_SIGNATURE */
  async certify(key: number, keyAuth: Uint8Array, ak: number, nonce: Uint8Array) {
    const command = [tpm2b(nonce), u16(ALG_NULL)];
    const { parameters } = await this.#run(CC.certify, [key, ak], [keyAuth, NO_AUTH], command);
    return { attest: parameters.buffer(2048), signature: parameters.rest() };
  }

  /** Signs a digest by the key's own scheme. @returns TPMT_SIGNATURE */
  async sign(key: number, digest: Uint8Array): Promise<Uint8Array> {
    // Nothing vouches for where the digest comes from: a restricted key refuses it.
    const noTicket = concatBytes(u16(0x8024), u32(RH_NULL), tpm2b(NO_AUTH));
    return (await this.#run(CC.sign, [key], [NO_AUTH], [tpm2b(digest), u16(ALG_NULL), noTicket])).parameters.rest();
  }

  async flush(handle: number): Promise<void> {
    this.#loaded.delete(handle);
    await this.#run(CC.flushContext, [], undefined, [u32(handle)]);
  }

  /** @param auths an authorization value or session for each handle that needs one; undefined for a command without */
  async #run(
    code: number,
    handles: readonly number[],
    auths: readonly Auth[] | undefined,
    parameters: readonly Uint8Array[],
    givesHandle = false,
  ): Promise<{ handle: number | undefined; parameters: TpmReader }> {
    const area = concatBytes(...(auths ?? []).map(authorization));
    const body = concatBytes(
      ...handles.map(u32),
      ...(auths === undefined ? [] : [u32(area.length), area]),
      ...parameters,
    );
    const header = concatBytes(u16(auths === undefined ? 0x8001 : 0x8002), u32(10 + body.length), u32(code));
    let response: TpmReader;
    let rc: number;
    let attempts = 0;
    do {
      response = new TpmReader(await this.#transport.exchange(concatBytes(header, body)), "the TPM's response");
      response.take(6);
      rc = response.u32();
    } while (AGAIN.has(rc) && ++attempts < 10);
    if (rc !== 0) {
      const text = `the TPM refuses command 0x${code.toString(16)} with 0x${rc.toString(16)} (tpm2_rc_decode explains it)`;
      throw new CountersignError("hsm-unavailable", text, { details: { rc } });
    }
    const handle = givesHandle ? response.u32() : undefined;
    if (handle !== undefined) this.#loaded.add(handle);
    const size = auths === undefined ? undefined : response.u32();
    return {
      handle,
      parameters: new TpmReader(size === undefined ? response.rest() : response.take(size), "the TPM's response"),
    };
  }
}

function authorization(auth: Auth): Uint8Array {
  if (auth instanceof Uint8Array) return concatBytes(u32(RS_PW), tpm2b(NO_AUTH), Uint8Array.of(0), tpm2b(auth));
  return concatBytes(u32(auth.session), tpm2b(NO_AUTH), Uint8Array.of(0), tpm2b(NO_AUTH));
}

/** TPM_RC_HANDLE: there is no such index. */
function unlessAbsent(error: unknown): undefined {
  const rc = error instanceof CountersignError ? Number(error.details["rc"]) : 0;
  if ((rc & 0xff) === 0x8b) return undefined;
  throw error;
}
