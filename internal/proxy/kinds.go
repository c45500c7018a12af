package proxy

// kind is what the documents say about an error code.
type kind struct {
	status   int // documented; see Failure.dataStatus for what Orthanc sees
	category string
	severity string
	summary  string
	hints    []string
}

const (
	configuration  = "CONFIGURATION"
	authentication = "AUTHENTICATION"
	authorization  = "AUTHORIZATION"
	network        = "NETWORK"
	internal       = "INTERNAL"
)

// kinds is a constant: the table of compatibility.md, Error codes.
var kinds = map[string]kind{
	"CFG-001":  {500, configuration, "ERROR", "a required configuration key is missing", []string{"run: orthanc-oauth check FILE"}},
	"CFG-002":  {500, configuration, "ERROR", "a configuration value is invalid", []string{"run: orthanc-oauth check FILE"}},
	"CFG-003":  {500, configuration, "ERROR", "a referenced environment variable is not set", []string{"set the variable where Orthanc is started"}},
	"TOK-001":  {401, authentication, "ERROR", "the token could not be acquired", []string{"check TokenEndpoint, ClientId and the client secret", "look for the cause in Orthanc's log"}},
	"TOK-002":  {401, authentication, "WARNING", "the cached token has expired", []string{"the next request asks for a new one; check that the token endpoint answers"}},
	"TOK-003":  {200, authentication, "INFO", "the token nears its expiry", []string{"nothing to do: it is refreshed in the background"}},
	"TOK-004":  {401, authentication, "ERROR", "the token is not valid", []string{"check the JWT keys of this server's configuration against the provider's"}},
	"TOK-005":  {502, authentication, "ERROR", "the token endpoint's answer makes no sense", []string{"check that TokenEndpoint is the token endpoint and not a login page", "look for a proxy in between that answers with HTML"}},
	"TOK-006":  {401, authentication, "ERROR", "the token could not be refreshed", []string{"check that the OAuth client is still enabled at the provider"}},
	"NET-001":  {504, network, "ERROR", "a timeout on the network", []string{"check the way to the host: routes, firewall, HttpProxy", "check whether the host is overloaded"}},
	"NET-002":  {502, network, "ERROR", "a connection failed", []string{"check the URL, its host name in DNS, and firewalls", "check Orthanc's HttpProxy"}},
	"NET-003":  {495, network, "ERROR", "TLS failed", []string{"check the server's certificate, its name and its dates", "for a private CA set VerifySSL to the CA's file"}},
	"AUTH-001": {401, authorization, "ERROR", "the credentials were refused", []string{"check ClientId and the client secret, and whether the secret has expired"}},
	"AUTH-002": {403, authorization, "ERROR", "the permission is missing", []string{"check Scope, and the client's roles at the DICOMweb server"}},
	"AUTH-003": {503, authorization, "CRITICAL", "the identity provider is not available", []string{"check the provider's status page", "requests go on by themselves once it answers"}},
	"INT-001":  {500, internal, "ERROR", "an internal error", []string{"look for the cause in the log, and report it"}},
}
