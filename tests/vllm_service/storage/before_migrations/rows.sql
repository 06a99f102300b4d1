INSERT INTO api_keys VALUES('1b2bd38fe67137ef','4cfc635c87a802455395d60ff070af56bfa8f42473977786b66b78db4776e3a8','acme','production',0,'cost','the app',1795887145792858,NULL);
INSERT INTO ledger_writers VALUES(3707120560187206998,'gateway-1',1306,1795887145782456,1795887145806675,5,0,1795887145806679,NULL);
INSERT INTO organisations VALUES('acme',NULL,100000,300000000,200000000000000);
INSERT INTO quota_use VALUES('acme','month',25200,7,1234,7000901);
INSERT INTO requests (
    writer, sequence, request_id, started_at_us, key_id, organisation, operation, model, outcome, status, provider, upstream_model, prompt_tokens,
    completion_tokens, cached_tokens, reasoning_tokens, usage_estimated, cost_picousd, baseline_picousd, stream, queue_ms, ttft_ms, total_ms, attempts, error_code, route_reason) VALUES
    (3707120560187206998,0,'req_1',1795000000123456,'k1','acme','chat.completions','llama','completed',200,'own','meta/llama',120,45,64,0,0,7000001,1152921504606846977,1,0.25,12.5,1234.5678,1,NULL,'cheapest: own, warm'),
    (3707120560187206998,1,'req_1/hedge',1795000000123456,'k1','acme','chat.completions','llama','cancelled',499,'hosted','llama-3.1',120,3,0,0,1,900,NULL,1,0.25,NULL,1234.5678,0,NULL,'hedge: another place began first'),
    (3707120560187206998,2,'req_2',1795000060000000,'','','chat.completions','','rejected',401,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,0.4,0,'UNAUTHORIZED_401',NULL),
    (3707120560187206998,3,'it''s; quoted',1795090000500000,'k2','ümlaut ∑','embeddings','bge','failed',502,'own','bge',NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,1.0,NULL,30000.0,3,'UPSTREAM_502','in order'),
    (3707120560187206998,4,'req_3',1795090001000000,'k2','zeta','chat.completions','llama','cached',200,NULL,NULL,10,5,0,0,0,0,400,0,NULL,NULL,0.8,0,NULL,NULL);
