export interface Reading {
  readonly deviceId: string;
  readonly messageId: number;
  /** degrees Celsius */
  readonly temperature: number;
  /** percent */
  readonly humidity: number;
}

/** A simulated sensor's, in the tutorial's form. */
export function reading(deviceId: string, messageId: number): Reading {
  const temperature = 20 + Math.random() * 15;
  const humidity = 60 + Math.random() * 20;
  return { deviceId, messageId, temperature, humidity };
}
