package tokens

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"orthanc-oauth/tokens/provider"
)

const canary = "canaryDEADBEEF"

// shown renders a value in every way that could reach a log.
func shown(t *testing.T, v any) string {
	t.Helper()
	var b bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
		fmt.Fprintf(&b, verb+"\n", v)
	}
	if j, err := json.Marshal(v); err == nil {
		b.Write(j)
	}
	slog.New(slog.NewTextHandler(&b, nil)).Info("m", "v", v)
	slog.New(slog.NewJSONHandler(&b, nil)).Info("m", slog.Group("g", "v", v))
	return b.String()
}

func hides(t *testing.T, what string, text string) {
	t.Helper()
	for _, form := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), strings.Trim(fmt.Sprintf("%d", []byte(canary)), "[]")} {
		if i := strings.Index(text, form); i >= 0 {
			t.Errorf("%s shows a secret: ...%s", what, text[max(0, i-200):i+len(form)])
		}
	}
}

func TestCanary_NoSinkShowsTokensOrSecrets(t *testing.T) {
	refuse := false
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		if refuse { // and echo what was sent, as careless providers do
			w.WriteHeader(http.StatusBadRequest)
			_, _ = fmt.Fprintf(w, `{"error":"%s","error_description":"%s %s"}`, canary, canary, r.Form.Encode())
			return
		}
		_, _ = fmt.Fprintf(w, `{"access_token":"%s","expires_in":3600}`, canary)
	}))
	t.Cleanup(endpoint.Close)
	credentials, err := provider.NewClientCredentials(provider.Config{
		TokenEndpoint: endpoint.URL, ClientID: "id", ClientSecret: provider.NewSecret(canary),
		EndpointParams: url.Values{"assertion": {canary}},
	})
	if err != nil {
		t.Fatal(err)
	}
	resilient, err := provider.NewResilient(credentials, provider.ResilienceConfig{Server: "pacs"})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, resilient)
	c := credentialOf("s")
	c.Params = url.Values{"assertion": {canary}}
	c.Root, c.EncryptionKey = []byte(canary+canary), []byte(canary)
	cfg := SourceConfig{Name: "pacs", Credential: c, Provider: resilient}
	w.set(cfg)
	tok := w.token()
	entry, err := w.backend.Get(t.Context(), w.source.Key())
	if err != nil {
		t.Fatal(err)
	}
	refuse = true
	_, refusal := w.source.Refused(t.Context(), tok)
	if refusal == nil {
		t.Fatal("no refusal")
	}
	type holder struct {
		Token  Token
		hidden Token
		deep   *Source
	}
	for _, v := range []any{
		tok, &tok,
		holder{tok, tok, w.source},
		&holder{tok, tok, w.source},
		[]Token{tok},
		map[string]Token{"k": tok},
		c, &c, cfg, &cfg,
		[]Credential{c},
		w.source, w.manager, w.source.Status(), entry, refusal, errors.Unwrap(refusal),
		http.Client{Transport: w.source.Transport(nil)},
		w.source.OAuth2(),
	} {
		hides(t, fmt.Sprintf("%T", v), shown(t, v))
	}
	hides(t, "the log", w.log.String())
	hides(t, "an error", refusal.Error())
	families, err := w.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	hides(t, "a metric", fmt.Sprint(families))
	if tok.Header() != "Bearer "+canary {
		t.Error("the token is lost")
	}
	if !strings.Contains(w.log.String(), "no token") {
		t.Error("the log has not seen the refusal")
	}
}
