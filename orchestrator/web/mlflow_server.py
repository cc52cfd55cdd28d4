"""Run MLflow's server behind the check of `access`, in a process of its own.

    python -m orchestrator.web.mlflow_server DATABASE ARTIFACTS PORT

`mlflow server` checks the Host header, but answers `/version` to any, and reads from another site's page. It also takes
two processes more.
"""

from __future__ import annotations

import os
import sys


def main(uri: str, artifacts: str, port: int) -> None:
    """Serve until a signal."""
    from orchestrator.web.access import HOST, local_only

    # As `mlflow server` passes its options on; MLflow's modules read these when they are imported.
    os.environ |= {
        "_MLFLOW_SERVER_FILE_STORE": uri,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": artifacts,
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "MLFLOW_ENABLE_WORKSPACES": "false",
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"{HOST}:{port},localhost:{port}",
        # Jobs are not used here; they would take two more processes.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    import uvicorn
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(uri, None, "mlflow-artifacts:/")
    uvicorn.run(local_only(app, port), host=HOST, port=port, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
