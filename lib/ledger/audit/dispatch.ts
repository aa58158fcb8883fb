import type { ActType } from "../../records/acts.ts";
import { onAlarm } from "./alarm.ts";
import { onAttested } from "./attestation.ts";
import { onBuilt, onLotOpened, onReceived } from "./custody.ts";
import { checkBuiltIntake } from "./intake.ts";
import { onCertified, onHubRegistered, onInjected, onInstalled, onIntent } from "./issuance.ts";
import { onRecovered } from "./recovered.ts";
import { onRevoked } from "./revocation.ts";
import { onRotated } from "./rotation.ts";
import type { AuditState, PartyState, Placed } from "./state.ts";
import { onAcceptance, onCeremony, onDelegation, onKeyset } from "./trust.ts";

/** How a release is read: with its whole list, or without it. */
export type OnReleased = (at: Placed<"handoff-released">, party: PartyState, state: AuditState) => void | Promise<void>;

/** Holds one act, whose form and signature are checked, against everything before it, and takes it in. */
export async function takeIn(at: Placed, party: PartyState, state: AuditState, onReleased: OnReleased): Promise<void> {
  const as = <T extends ActType>() => at as unknown as Placed<T>;
  switch (at.act.type) {
    case "keyset":
      return onKeyset(as<"keyset">(), party, state);
    case "ceremony":
      return onCeremony(as<"ceremony">(), party, state);
    case "delegation":
      return onDelegation(as<"delegation">(), party, state);
    case "acceptance":
      return onAcceptance(as<"acceptance">(), party, state);
    case "lot-opened":
      return onLotOpened(as<"lot-opened">(), party, state);
    case "built":
      onBuilt(as<"built">(), party, state);
      return checkBuiltIntake(as<"built">(), party, state);
    case "handoff-released":
      return onReleased(as<"handoff-released">(), party, state);
    case "handoff-received":
      return onReceived(as<"handoff-received">(), party, state);
    case "intent":
      return onIntent(as<"intent">(), party, state);
    case "attested":
      return onAttested(as<"attested">(), party, state);
    case "certified":
      return onCertified(as<"certified">(), party, state);
    case "injected":
      return onInjected(as<"injected">(), party, state);
    case "installed":
      return onInstalled(as<"installed">(), party, state);
    case "revoked":
      return onRevoked(as<"revoked">(), party, state);
    case "rotated":
      return onRotated(as<"rotated">(), party, state);
    case "hub-registered":
      return onHubRegistered(as<"hub-registered">(), state);
    case "alarm":
      return onAlarm(as<"alarm">(), party, state);
    case "recovered":
      return onRecovered(as<"recovered">(), party, state);
  }
}
