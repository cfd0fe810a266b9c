package environment

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
)

func ptr(s string) *string { return &s }

func pointers(m map[string]string) map[string]*string {
	out := map[string]*string{}
	for k, v := range m {
		out[k] = &v
	}
	return out
}

func fresh() *Layers {
	l := New(map[string]string{"PATH": "/bin", "HOME": "/root"})
	l.Reset(map[string]string{"PATH": "/bin", "HOME": "/root"},
		map[string]string{"PATH": "/opt/bin:/bin", "TEMPLATE": "t", "BOTH": "template"},
		map[string]string{"CREATION": "c", "BOTH": "creation"})
	return l
}

func want(t *testing.T, l *Layers, m map[string]string) {
	t.Helper()
	if got := l.All(); !maps.Equal(got, m) {
		t.Errorf("got %v, want %v", got, m)
	}
}

func TestPrecedence(t *testing.T) {
	l := fresh()
	want(t, l, map[string]string{"PATH": "/opt/bin:/bin", "HOME": "/root", "TEMPLATE": "t", "CREATION": "c", "BOTH": "creation"})
	if err := l.Merge(map[string]*string{"BOTH": ptr("global")}); err != nil {
		t.Fatal(err)
	}
	got := l.For(map[string]*string{"BOTH": ptr("request"), "OWN": ptr("1")})
	if exp := []string{"BOTH=request", "CREATION=c", "HOME=/root", "OWN=1", "PATH=/opt/bin:/bin", "TEMPLATE=t"}; !slices.Equal(got, exp) {
		t.Errorf("got %v", got)
	}
	if got := l.For(map[string]*string{"BOTH": nil, "NONE": nil}); len(got) != 4 || slices.Contains(got, "BOTH=global") {
		t.Errorf("a nil value was seen: %v", got)
	}
	if got := l.For(nil); !slices.Contains(got, "BOTH=global") || slices.Contains(got, "OWN=1") {
		t.Errorf("the request's variables stayed: %v", got)
	}
}

func TestReplaceKeepsTheFloor(t *testing.T) {
	l := fresh()
	if err := l.Replace(map[string]string{"A": "1"}); err != nil {
		t.Fatal(err)
	}
	want(t, l, map[string]string{"PATH": "/opt/bin:/bin", "HOME": "/root", "TEMPLATE": "t", "BOTH": "template", "A": "1"})
}

// TestDeleteAsClientsDo reads all, drops one and writes the rest back.
func TestDeleteAsClientsDo(t *testing.T) {
	for _, gone := range []string{"TEMPLATE", "CREATION", "GLOBAL"} {
		l := fresh()
		if err := l.Merge(map[string]*string{"GLOBAL": ptr("g")}); err != nil {
			t.Fatal(err)
		}
		all := l.All()
		delete(all, gone)
		if err := l.Replace(all); err != nil {
			t.Fatal(err)
		}
		want(t, l, all)
		if err := l.Merge(map[string]*string{gone: ptr("back")}); err != nil {
			t.Fatal(err)
		}
		if got := l.All()[gone]; got != "back" {
			t.Errorf("%s: %q", gone, got)
		}
	}
	l := fresh()
	all := l.All()
	delete(all, "HOME")
	if err := l.Replace(all); err != nil {
		t.Fatal(err)
	}
	if l.All()["HOME"] != "/root" {
		t.Error("the agent's base was removed")
	}
}

func TestMergeRemovesNulls(t *testing.T) {
	l := fresh()
	if err := l.Merge(map[string]*string{"TEMPLATE": nil, "CREATION": nil, "NOTHING": nil}); err != nil {
		t.Fatal(err)
	}
	want(t, l, map[string]string{"PATH": "/opt/bin:/bin", "HOME": "/root", "BOTH": "creation"})
}

func TestClear(t *testing.T) {
	l := fresh()
	if err := l.Merge(map[string]*string{"A": ptr("1"), "TEMPLATE": ptr("mine")}); err != nil {
		t.Fatal(err)
	}
	if err := l.Clear(); err != nil {
		t.Fatal(err)
	}
	want(t, l, map[string]string{"PATH": "/opt/bin:/bin", "HOME": "/root", "TEMPLATE": "t", "BOTH": "template"})
}

func TestSaveAndRestore(t *testing.T) {
	l := fresh()
	if err := l.Merge(map[string]*string{"A": ptr("1"), "TEMPLATE": nil}); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(l.Save())
	if err != nil {
		t.Fatal(err)
	}
	var s Saved
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	again := fresh()
	if err := again.Restore(s); err != nil {
		t.Fatal(err)
	}
	want(t, again, l.All())
}

func TestRefused(t *testing.T) {
	long := strings.Repeat("x", 128<<10)
	for _, v := range []map[string]string{
		{"": "x"}, {"A=B": "x"}, {"A\x00": "x"}, {"A": "x\x00"}, {"A": long},
	} {
		l := fresh()
		before := l.All()
		if err := l.Replace(v); err == nil {
			t.Errorf("replaced by %.20v", v)
		}
		want(t, l, before)
		if err := CheckAll(pointers(v)); err == nil {
			t.Errorf("checked %.20v", v)
		}
	}
	many := map[string]string{}
	for i := range 20 {
		many[strings.Repeat("k", i+1)] = strings.Repeat("v", 100<<10)
	}
	l := fresh()
	before := l.All()
	if err := l.Replace(many); err == nil {
		t.Error("two megabytes were taken")
	}
	want(t, l, before)
	if err := CheckAll(pointers(many)); err == nil {
		t.Error("two megabytes were checked")
	}
	for _, v := range []map[string]string{{"FOO-BAR": ""}, {"ünï": "ö"}, {"A": "a=b\nc"}, {"1": "x"}} {
		if err := CheckAll(pointers(v)); err != nil {
			t.Errorf("%v: %v", v, err)
		}
	}
}
