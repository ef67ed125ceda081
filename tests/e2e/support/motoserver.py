"""Moto's server, but for one thing: each registry token is another, and ends some seconds from now rather than in 2015.

So a controller that runs by the real clock takes them, and a refresh can be seen. `python -m` with those seconds first;
the rest are the server's own arguments.
"""

import base64
import secrets
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from moto.ecr.responses import ECRResponse
from moto.server import main


def live_for(seconds: float) -> None:
    """Let every token of ECR live that long."""
    original = ECRResponse.get_authorization_token

    def get_authorization_token(self: ECRResponse) -> Any:
        answer: Any = original(self)
        for given in answer.result["authorizationData"]:
            token = f"{base64.b64decode(given['authorizationToken']).decode()}-{secrets.token_hex(16)}"
            given["authorizationToken"] = base64.b64encode(token.encode()).decode()
            given["expiresAt"] = datetime.now(UTC) + timedelta(seconds=seconds)
        return answer

    ECRResponse.get_authorization_token = get_authorization_token  # type: ignore[method-assign]


if __name__ == "__main__":
    live_for(float(sys.argv.pop(1)))
    main(sys.argv[1:])
