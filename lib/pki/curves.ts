import { toHex } from "../domain/bytes.ts";

/**
 * Public-key validation (SP 800-186, RFC 8032) with BigInt: is the encoded point a point of the curve, and of its large
 * subgroup? Only public values pass through here, so timing tells nothing.
 */

interface Weierstrass {
  readonly p: bigint;
  readonly b: bigint;
  readonly octets: number;
}

const P256: Weierstrass = {
  p: 0xffffffff00000001000000000000000000000000ffffffffffffffffffffffffn,
  b: 0x5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604bn,
  octets: 32,
};

const P384: Weierstrass = {
  p: 0xfffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffeffffffff0000000000000000ffffffffn,
  b: 0xb3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875ac656398d8a2ed19d2a85c8edd3ec2aefn,
  octets: 48,
};

export type PointFault = "compressed" | "length" | "not-on-curve" | "small-order";

/** The fault of an uncompressed point (SEC 1 section 2.3.3), or undefined. Both curves have cofactor 1. */
export function weierstrassFault(curve: "p256" | "p384", point: Uint8Array): PointFault | undefined {
  const { p, b, octets } = curve === "p256" ? P256 : P384;
  if (point[0] === 2 || point[0] === 3) return "compressed";
  if (point[0] !== 4 || point.length !== 1 + 2 * octets) return "length";
  const x = toBigInt(point.subarray(1, 1 + octets));
  const y = toBigInt(point.subarray(1 + octets));
  if (x >= p || y >= p) return "not-on-curve";
  return (y * y - (x * x * x - 3n * x + b)) % p === 0n ? undefined : "not-on-curve";
}

const ED_P = 2n ** 255n - 19n;
const ED_D = 37095705934669439343138083508754565189542113879843219016388785533085940283555n;

/** The fault of an Ed25519 public key (RFC 8032 section 5.1.3), or undefined. */
export function ed25519Fault(key: Uint8Array): PointFault | undefined {
  if (key.length !== 32) return "length";
  const encoded = toBigInt(key.toReversed());
  const y = encoded & (2n ** 255n - 1n);
  if (y >= ED_P) return "not-on-curve";
  const y2 = (y * y) % ED_P;
  // The 8 points of small order have y = 0, y^2 = 1 or (from 2P having y = 0) d*y^4 + 2*y^2 = 1.
  if (y === 0n || y2 === 1n || (ED_D * y2 * y2 + 2n * y2 - 1n) % ED_P === 0n) return "small-order";
  const u = (y2 - 1n + ED_P) % ED_P;
  const v = (ED_D * y2 + 1n) % ED_P;
  const x2 = (u * power(v, ED_P - 2n)) % ED_P;
  // Euler's criterion; x = 0 (where y^2 = 1) was refused above, so both values of the sign bit name a point
  return power(x2, (ED_P - 1n) / 2n) === 1n ? undefined : "not-on-curve";
}

function power(base: bigint, exponent: bigint): bigint {
  let result = 1n;
  let square = base % ED_P;
  for (let left = exponent; left > 0n; left >>= 1n) {
    if (left & 1n) result = (result * square) % ED_P;
    square = (square * square) % ED_P;
  }
  return result;
}

/** Big-endian. */
export function toBigInt(octets: Uint8Array): bigint {
  return octets.length === 0 ? 0n : BigInt(`0x${toHex(octets)}`);
}
