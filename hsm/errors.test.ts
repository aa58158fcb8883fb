import { describe, expect, it } from "vitest";
import { CountersignError } from "../lib/domain/errors.ts";
import { ckrOf, hsmError, isSessionLost, isTokenLost } from "./errors.ts";

const context = { doing: "sign", token: "factory-y", key: "act" };

describe("PKCS#11 errors", () => {
  it.each([
    ["CKR_PIN_INCORRECT:160", "hsm-pin-wrong"],
    ["CKR_PIN_LEN_RANGE:162", "hsm-pin-wrong"],
    ["CKR_PIN_LOCKED:164", "hsm-pin-locked"],
    ["CKR_TOKEN_NOT_PRESENT:224", "hsm-token-missing"],
    ["CKR_USER_PIN_NOT_INITIALIZED:258", "hsm-token-missing"],
    ["CKR_KEY_HANDLE_INVALID:96", "hsm-key-missing"],
    ["CKR_KEY_UNEXTRACTABLE:106", "hsm-key-unextractable"],
    ["CKR_MECHANISM_INVALID:112", "key-unsupported"],
    ["CKR_DEVICE_ERROR:48", "hsm-unavailable"],
    ["CKR_VENDOR_DEFINED:2147483649", "hsm-unavailable"],
    ["/usr/lib/hsm.so: cannot open shared object file", "hsm-unavailable"],
  ])("%s is %s", (message, code) => {
    const cause = new Error(message);
    const error = hsmError(cause, context);
    expect(error).toMatchObject({ code, cause, details: { token: "factory-y", key: "act" } });
    expect(error.message).toMatch(/^can't sign with key "act" in token "factory-y" \(/);
  });

  it("keep our own errors, and tell our faults from the token's", () => {
    const own = new CountersignError("hsm-key-exists", "there");
    expect(hsmError(own, context)).toBe(own);
    expect(hsmError(new TypeError("x is not a function"), context).code).toBe("internal");
    expect(hsmError("thrown text", context).code).toBe("hsm-unavailable");
  });

  it("are known by name through their causes", () => {
    expect(ckrOf(hsmError(new Error("CKR_DEVICE_REMOVED:50"), context))).toBe("CKR_DEVICE_REMOVED");
    expect(ckrOf(new Error("no name"))).toBeUndefined();
    expect(isSessionLost(new Error("CKR_SESSION_HANDLE_INVALID:179"))).toBe(true);
    expect(isSessionLost(new Error("CKR_PIN_INCORRECT:160"))).toBe(false);
  });

  it.each([
    ["CKR_PIN_INCORRECT", false, false],
    ["CKR_SESSION_COUNT", false, false],
    ["CKR_VENDOR_DEFINED", false, false],
    ["CKR_USER_NOT_LOGGED_IN", true, false],
    ["CKR_KEY_HANDLE_INVALID", true, false],
    ["CKR_OPERATION_ACTIVE", true, false],
    ["CKR_DEVICE_MEMORY", true, true],
    ["CKR_GENERAL_ERROR", true, true],
    ["CKR_CRYPTOKI_NOT_INITIALIZED", true, true],
  ])("%s: session lost %s, token lost %s", (message, session, token) => {
    const error = new Error(message);
    expect([isSessionLost(error), isTokenLost(error)]).toEqual([session, token]);
    const refusal = new CountersignError("hsm-unavailable", "no", {
      cause: error,
      details: { refused: "circuit-open" },
    });
    expect([isSessionLost(refusal), isTokenLost(refusal)]).toEqual([false, false]);
  });
});
