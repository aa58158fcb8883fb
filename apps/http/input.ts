import type { FastifyRequest } from "fastify";
import type { z } from "zod";
import { CountersignError } from "../../lib/domain/errors.ts";

/**
 * Validates one outside input; `where` names it in the message ("request body", "query").
 * @throws CountersignError `input-invalid` with the first few violations
 */
export function parseInput<T extends z.ZodType>(schema: T, value: unknown, where: string): z.output<T> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const violations = result.error.issues
    .slice(0, 5)
    .map((issue) => `${issue.path.map(String).join(".") || "(top)"}: ${issue.message}`);
  throw new CountersignError("input-invalid", `${where} is not valid: ${violations.join("; ").slice(0, 500)}`);
}

/**
 * The bytes of a body sent as NDJSON, PEM, PKCS #10 or octets.
 * @throws CountersignError `input-invalid` when the content type was another one, or none
 */
export function rawBody(request: FastifyRequest): Uint8Array {
  if (request.body instanceof Uint8Array) return request.body;
  throw new CountersignError(
    "input-invalid",
    `send the body as one of ${RAW_CONTENT_TYPES.join(", ")}, not ${request.headers["content-type"] ?? "without a type"}`,
  );
}

export const RAW_CONTENT_TYPES = [
  "application/x-ndjson",
  "application/octet-stream",
  "application/pkcs10",
  "application/x-pem-file",
  "text/plain",
];
