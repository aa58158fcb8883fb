"""Azure's own Python device SDK as a client of the hub, or of device provisioning.

One JSON object in argv; events as lines of JSON on stdout; ends when stdin does.
"""

import json
import sys

from azure.iot.device import IoTHubDeviceClient, Message, MethodResponse, ProvisioningDeviceClient, X509


def say(event, **more):
    print(json.dumps({"event": event, **more}), flush=True)


options = json.loads(sys.argv[1])
x509 = X509(cert_file=options["cert"], key_file=options["key"])
ca = open(options["ca"]).read()
hub = options.get("hub")
device_id = options["deviceId"]

if "provisioning" in options:
    provisioning = ProvisioningDeviceClient.create_from_x509_certificate(
        provisioning_host=options["provisioning"],
        registration_id=device_id,
        id_scope=options["idScope"],
        x509=x509,
        server_verification_cert=ca,
    )
    result = provisioning.register()
    state = result.registration_state
    say("registered", status=result.status, hub=state.assigned_hub, deviceId=state.device_id)
    hub, device_id = state.assigned_hub, state.device_id

client = IoTHubDeviceClient.create_from_x509_certificate(
    hostname=hub, device_id=device_id, x509=x509, server_verification_cert=ca
)


def on_message(message):
    data = message.data
    say(
        "message",
        data=data.decode() if isinstance(data, bytes) else data,
        messageId=message.message_id,
        properties=message.custom_properties,
    )


def on_method(request):
    say("method", name=request.name, payload=request.payload)
    client.send_method_response(MethodResponse.create_from_method_request(request, 200, {"echo": request.payload}))


client.on_message_received = on_message
client.on_method_request_received = on_method
client.on_twin_desired_properties_patch_received = lambda patch: say("desired", patch=patch)
client.connect()
say("connected")

message = Message(json.dumps({"temperature": 31}))
message.message_id = "py-1"
message.content_type = "application/json"
message.content_encoding = "utf-8"
message.custom_properties["temperatureAlert"] = "true"
client.send_message(message)
say("sent")
client.patch_twin_reported_properties({"firmware": "1.2.3"})
say("twin", twin=client.get_twin())
sys.stdin.read()
client.shutdown()
