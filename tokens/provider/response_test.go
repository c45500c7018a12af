package provider

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

func jwt(claims string) string {
	enc := base64.RawURLEncoding.EncodeToString
	return enc([]byte(`{"alg":"none"}`)) + "." + enc([]byte(claims)) + ".c2ln"
}

func TestParse_Lifetime(t *testing.T) {
	for _, c := range []struct {
		name, expiresIn, token string
		want                   time.Duration
		assumed                bool
	}{
		{"number", `3600`, "t", time.Hour, false},
		{"string", `"3600"`, "t", time.Hour, false},
		{"padded string", `" 60 "`, "t", time.Minute, false},
		{"fraction", `3599.9`, "t", 3599 * time.Second, false},
		{"fraction as string", `"59.5"`, "t", 59 * time.Second, false},
		{"exponent", `3.6e3`, "t", time.Hour, false},
		{"one second", `1`, "t", time.Second, false},
		{"missing", ``, "t", DefaultAssumedLifetime, true},
		{"null", `null`, "t", DefaultAssumedLifetime, true},
		{"zero", `0`, "t", DefaultAssumedLifetime, true},
		{"below one", `0.4`, "t", DefaultAssumedLifetime, true},
		{"negative", `-5`, "t", DefaultAssumedLifetime, true},
		{"absurd", `1e30`, "t", DefaultAssumedLifetime, true},
		{"beyond float", `1e999`, "t", DefaultAssumedLifetime, true},
		{"an instant", `1767225600`, "t", DefaultAssumedLifetime, true},
		{"no number", `"soon"`, "t", DefaultAssumedLifetime, true},
		{"not a number", `"NaN"`, "t", DefaultAssumedLifetime, true},
		{"infinite", `"Inf"`, "t", DefaultAssumedLifetime, true},
		{"object", `{"s":1}`, "t", DefaultAssumedLifetime, true},
		{"bool", `true`, "t", DefaultAssumedLifetime, true},
		{"above a day", `604800`, "t", MaxLifetime, false},
		{"jwt", `null`, jwt(`{"iat":1000,"exp":1900}`), 15 * time.Minute, false},
		{"jwt and a number", `60`, jwt(`{"iat":1000,"exp":1900}`), time.Minute, false},
		{"jwt without iat", `null`, jwt(`{"exp":1900}`), DefaultAssumedLifetime, true},
		{"jwt turned round", `null`, jwt(`{"iat":1900,"exp":1000}`), DefaultAssumedLifetime, true},
		{"jwt of nonsense", `null`, jwt(`[]`), DefaultAssumedLifetime, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			field := ""
			if c.expiresIn != "" {
				field = `,"expires_in":` + c.expiresIn
			}
			r, err := parse([]byte(`{"access_token":"`+c.token+`"`+field+`}`), DefaultAssumedLifetime)
			if err != nil {
				t.Fatal(err)
			}
			if r.Lifetime != c.want || r.Assumed != c.assumed {
				t.Errorf("lifetime %v assumed %v, want %v %v", r.Lifetime, r.Assumed, c.want, c.assumed)
			}
		})
	}
}

func TestParse_Accepts(t *testing.T) {
	for name, body := range map[string]string{
		"lower case type":  `{"access_token":"tok","token_type":"bearer","expires_in":60}`,
		"upper case type":  `{"access_token":"tok","token_type":"BEARER"}`,
		"no type":          `{"access_token":"tok"}`,
		"null type":        `{"access_token":"tok","token_type":null}`,
		"null scope":       `{"access_token":"tok","scope":null}`,
		"scope as array":   `{"access_token":"tok","scope":["a"],"unknown":{"x":[1]}}`,
		"whitespace":       " \r\n\t" + `{"access_token":"tok"}` + "\n",
		"null error":       `{"access_token":"tok","error":null}`,
		"reserved symbols": `{"access_token":"tok"}`,
	} {
		t.Run(name, func(t *testing.T) {
			r, err := parse([]byte(body), DefaultAssumedLifetime)
			if err != nil {
				t.Fatal(err)
			}
			if r.AccessToken.Reveal() != "tok" || r.Scheme != "Bearer" {
				t.Errorf("token %q scheme %q", r.AccessToken.Reveal(), r.Scheme)
			}
		})
	}
}

func TestParse_Refuses(t *testing.T) {
	for _, c := range []struct {
		name, body string
		code       Code
		pause      time.Duration
	}{
		{"html", `<html>canary</html>`, CodeResponse, pauseResponse},
		{"empty", ``, CodeResponse, pauseResponse},
		{"null", `null`, CodeResponse, pauseResponse},
		{"array", `[{"access_token":"canary"}]`, CodeResponse, pauseResponse},
		{"cut off", `{"access_token":"canary"`, CodeResponse, pauseResponse},
		{"trailing text", `{"access_token":"canary"} canary`, CodeResponse, pauseResponse},
		{"no token", `{"expires_in":60}`, CodeResponse, pauseResponse},
		{"empty token", `{"access_token":""}`, CodeResponse, pauseResponse},
		{"token is a number", `{"access_token":5}`, CodeResponse, pauseResponse},
		{"line break", `{"access_token":"canary\r\nX-Evil: 1"}`, CodeValidation, pauseResponse},
		{"space", `{"access_token":"canary canary"}`, CodeValidation, pauseResponse},
		{"nul", `{"access_token":"canary\u0000"}`, CodeValidation, pauseResponse},
		{"not ascii", `{"access_token":"canary\u00e9"}`, CodeValidation, pauseResponse},
		{"too long", `{"access_token":"canary` + strings.Repeat("x", maxToken) + `"}`, CodeValidation, pauseResponse},
		{"mac", `{"access_token":"canary","token_type":"mac"}`, CodeResponse, pauseResponse},
		{"dpop", `{"access_token":"canary","token_type":"DPoP"}`, CodeResponse, pauseResponse},
		{"unknown type", `{"access_token":"canary","token_type":"canary"}`, CodeResponse, pauseResponse},
		{"type is a number", `{"access_token":"canary","token_type":1}`, CodeResponse, pauseResponse},
		{"error with status 200", `{"error":"invalid_client","error_description":"canary"}`, CodeCredentials, pauseCredentials},
		{"other error with status 200", `{"error":"invalid_grant"}`, CodeAcquisition, pauseCredentials},
		{"unknown error with status 200", `{"error":"canary"}`, CodeResponse, pauseResponse},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parse([]byte(c.body), DefaultAssumedLifetime)
			if err == nil {
				t.Fatal("accepted")
			}
			if err.Code != c.code || err.RetryAfter != c.pause {
				t.Errorf("%s after %v, want %s after %v", err.Code, err.RetryAfter, c.code, c.pause)
			}
			if strings.Contains(fmt.Sprintf("%+v", err), "canary") {
				t.Errorf("error tells the body: %v", err)
			}
		})
	}
}

func TestReadBody_RefusesMoreThanItsBound(t *testing.T) {
	if _, err := readBody(strings.NewReader(strings.Repeat("x", maxBody+1))); !errors.Is(err, errTooLarge) {
		t.Errorf("got %v", err)
	}
	if b, err := readBody(strings.NewReader(strings.Repeat("x", maxBody))); err != nil || len(b) != maxBody {
		t.Errorf("got %d bytes, %v", len(b), err)
	}
}

func TestRetryAfter(t *testing.T) {
	const date = "Mon, 23 Nov 2026 10:00:00 GMT" // far from the clock of this machine or not: it must not matter
	for _, c := range []struct {
		value, date string
		want        time.Duration
	}{
		{"60", "", time.Minute},
		{" 7 ", "", 7 * time.Second},
		{"0", "", 0},
		{"-1", "", 0},
		{"86400", "", MaxRetryAfter},
		{"99999999999999999999", "", 0},
		{"Mon, 23 Nov 2026 10:01:30 GMT", date, 90 * time.Second},
		{"Mon, 23 Nov 2026 09:00:00 GMT", date, 0},
		{"Tue, 24 Nov 2026 10:00:00 GMT", date, MaxRetryAfter},
		{"soon", date, 0},
		{"", date, 0},
	} {
		h := http.Header{"Retry-After": {c.value}, "Date": {c.date}}
		if got := retryAfter(h); got != c.want {
			t.Errorf("%q with date %q: %v, want %v", c.value, c.date, got, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{"access_token":"tok","token_type":"Bearer","expires_in":3600}`,
		`{"access_token":"tok","expires_in":"3599.5","scope":null}`,
		`{"access_token":"` + jwt(`{"iat":1,"exp":3e3}`) + `","expires_in":null}`,
		`{"access_token":"a\r\nb","expires_in":1e30}`,
		`{"error":"invalid_client","error_description":"x"}`,
		`<html></html>`, ``, `null`, `[]`, `{"access_token":{}}`, `{"expires_in":-1,"access_token":"é"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := parse(body, DefaultAssumedLifetime)
		if err != nil {
			if err.Code == "" || err.RetryAfter <= 0 {
				t.Fatalf("refusal without code or pause: %#v", err)
			}
			return
		}
		if token := r.AccessToken.Reveal(); token == "" || !sendable(token) {
			t.Fatalf("token %q", token)
		}
		if r.Lifetime < time.Second || r.Lifetime > MaxLifetime || r.Lifetime%time.Second != 0 {
			t.Fatalf("lifetime %v", r.Lifetime)
		}
	})
}
