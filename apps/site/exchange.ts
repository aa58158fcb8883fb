// For the command line, which talks to gateways and the hub as one party does to another.
export { exchange, problemOf } from "../../services/exchange.ts";
