package provider

import "strings"

// Code is an error code that operators and dashboards know.
type Code string

// The codes that obtaining and using tokens can raise.
const (
	CodeAcquisition   Code = "TOK-001" // the provider refused for a reason no other code names
	CodeExpired       Code = "TOK-002" // the token was past use when it arrived
	CodeRefreshDue    Code = "TOK-003" // informational: the refresh window has begun
	CodeValidation    Code = "TOK-004" // the token cannot be sent in a header, or is not what the server accepts
	CodeResponse      Code = "TOK-005" // the answer is no token response
	CodeRefresh       Code = "TOK-006" // a refresh failed while the held token still serves
	CodeTimeout       Code = "NET-001"
	CodeConnection    Code = "NET-002"
	CodeTLS           Code = "NET-003"
	CodeCredentials   Code = "AUTH-001" // the provider does not accept the client
	CodeScope         Code = "AUTH-002" // the client may not have what it asks for
	CodeUnavailable   Code = "AUTH-003" // the provider is down, overloaded or throttling
	CodeInternal      Code = "INT-001"
	CodeConfigMissing Code = "CFG-001"
	CodeConfigInvalid Code = "CFG-002"
)

// Category returns the family of a code as it appears in metrics and in the
// error envelope.
func (c Code) Category() string {
	family, _, _ := strings.Cut(string(c), "-")
	switch family {
	case "CFG":
		return "CONFIGURATION"
	case "TOK":
		return "AUTHENTICATION"
	case "NET":
		return "NETWORK"
	case "AUTH":
		return "AUTHORIZATION"
	}
	return "INTERNAL"
}

// Severity returns how much a code matters to an operator.
func (c Code) Severity() string {
	switch c {
	case CodeRefreshDue:
		return "INFO"
	case CodeExpired:
		return "WARNING"
	case CodeUnavailable:
		return "CRITICAL"
	}
	return "ERROR"
}

// HTTPStatus returns the status that the error envelope pairs with a code.
func (c Code) HTTPStatus() int {
	switch c {
	case CodeRefreshDue:
		return 200
	case CodeAcquisition, CodeExpired, CodeValidation, CodeRefresh, CodeCredentials:
		return 401
	case CodeScope:
		return 403
	case CodeTLS:
		return 495 // not registered with IANA, but what the documents promise
	case CodeResponse, CodeConnection:
		return 502
	case CodeUnavailable:
		return 503
	case CodeTimeout:
		return 504
	}
	return 500
}
