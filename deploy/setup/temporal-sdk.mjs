// Has Temporal's SDK download the CLI into the folder named by the first argument, as its own test environment does.
// Run by set-up with the project's Node, after npm ci.
import { TestWorkflowEnvironment } from "@temporalio/testing";

const downloadDir = process.argv[2];
const environment = await TestWorkflowEnvironment.createLocal({
  server: { ip: "127.0.0.1", executable: { type: "cached-download", downloadDir } },
});
await environment.teardown();
