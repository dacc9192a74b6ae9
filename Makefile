proto: ## generate the protocol's Python code
	.venv/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. ynet/federation/hub.proto ynet/federation/retrieval.proto
