package tokens_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"golang.org/x/oauth2"

	"orthanc-oauth/backend"
	"orthanc-oauth/tokens"
	"orthanc-oauth/tokens/provider"
)

// manage returns a source over a provider that stands in for a real one.
func manage(p tokens.Provider) (*tokens.Source, func()) {
	clock := backend.NewClock(nil)
	store := backend.NewMemory(clock)
	manager, err := tokens.New(tokens.Config{Backend: store, Clock: clock})
	if err != nil {
		panic(err)
	}
	source, err := manager.Set(tokens.SourceConfig{
		Name: "archive",
		Credential: tokens.Credential{
			TokenEndpoint: "https://idp.example/token", ClientID: "orthanc", Grant: "client_credentials",
			Root: make([]byte, 32), // tokens.Root(secret, endpoint, id) in earnest
		},
		Provider: p,
	})
	if err != nil {
		panic(err)
	}
	return source, func() {
		_ = manager.Close(context.Background())
		_ = store.Close(context.Background())
	}
}

type fixed string

func (f fixed) Fetch(context.Context) (provider.Response, error) {
	return provider.Response{AccessToken: provider.NewSecret(string(f)), Scheme: "Bearer", Lifetime: time.Hour}, nil
}

// A program that knows golang.org/x/oauth2 uses a source as a TokenSource.
func ExampleSource_OAuth2() {
	source, stop := manage(fixed("secret-token"))
	defer stop()

	ts := oauth2.ReuseTokenSource(nil, source.OAuth2())
	t, err := ts.Token()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(t.Type(), t.AccessToken, t.Valid())
	// Output: Bearer secret-token true
}

// Transport also replaces a token that the server refuses.
func ExampleSource_Transport() {
	source, stop := manage(fixed("secret-token"))
	defer stop()
	archive := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, "got ", r.Header.Get("Authorization"))
	}))
	defer archive.Close()

	client := &http.Client{Transport: source.Transport(nil)}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, archive.URL, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	resp, err := client.Do(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Println(string(body))
	// Output: got Bearer secret-token
}

// Tokens do not show themselves.
func ExampleToken() {
	source, stop := manage(fixed("secret-token"))
	defer stop()
	t, err := source.Token(context.Background())
	fmt.Println(t, err)
	fmt.Println(t.Header())
	// Output:
	// [redacted] <nil>
	// Bearer secret-token
}
