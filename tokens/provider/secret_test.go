package provider

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
)

// shown renders a value in every way that could reach a log.
func shown(t *testing.T, v any) string {
	t.Helper()
	var b strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&b, verb+"\n", v)
	}
	if j, err := json.Marshal(v); err == nil {
		b.Write(j)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "v", v)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "v", v)
	return b.String() + log.String()
}

func TestSecretsShowThemselvesNowhere(t *testing.T) {
	const canary = "canary-secret"
	type holder struct {
		Public Secret
		hidden Secret
	}
	s := NewSecret(canary)
	r, _ := parse([]byte(`{"access_token":"`+canary+`"}`), DefaultAssumedLifetime)
	cfg := Config{
		TokenEndpoint: "https://idp.example", ClientID: "id", ClientSecret: s,
		EndpointParams: url.Values{"client_assertion": {canary}},
	}
	c, err := NewClientCredentials(cfg)
	if err != nil {
		t.Fatal(err)
	}
	res, err := NewResilient(c, ResilienceConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{s, &s, holder{s, s}, &holder{s, s}, []Secret{s}, map[string]Secret{"k": s}, r, &r, c, res, cfg, &cfg, struct{ c Fetcher }{c}} {
		out := shown(t, v)
		if strings.Contains(out, canary) || strings.Contains(out, fmt.Sprintf("%x", canary)) {
			t.Errorf("%T shows its secret:\n%s", v, out)
		}
	}
	if s.Reveal() != canary || s.IsEmpty() || !(Secret{}).IsEmpty() || (Secret{}).Reveal() != "" {
		t.Error("secret lost")
	}
}

func TestCodes(t *testing.T) {
	for code, want := range map[Code]string{
		CodeAcquisition: "AUTHENTICATION ERROR 401", CodeExpired: "AUTHENTICATION WARNING 401",
		CodeRefreshDue: "AUTHENTICATION INFO 200", CodeResponse: "AUTHENTICATION ERROR 502",
		CodeTimeout: "NETWORK ERROR 504", CodeConnection: "NETWORK ERROR 502", CodeTLS: "NETWORK ERROR 495",
		CodeCredentials: "AUTHORIZATION ERROR 401", CodeScope: "AUTHORIZATION ERROR 403",
		CodeUnavailable: "AUTHORIZATION CRITICAL 503", CodeInternal: "INTERNAL ERROR 500",
		CodeConfigInvalid: "CONFIGURATION ERROR 500",
	} {
		if got := fmt.Sprint(code.Category(), " ", code.Severity(), " ", code.HTTPStatus()); got != want {
			t.Errorf("%s: %s, want %s", code, got, want)
		}
	}
}
