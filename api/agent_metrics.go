package api

// A Usage is how much of something is used, in bytes.
type Usage struct {
	Total        uint64  `json:"total"`
	Used         uint64  `json:"used"`
	Free         uint64  `json:"free"`
	UsagePercent float64 `json:"usage_percent"`
}

// A CPUUsage is how busy the guest's processors are.
type CPUUsage struct {
	UsagePercent float64 `json:"usage_percent"` // of all cores together, since the last look
	Cores        int     `json:"cores"`
}

// A System is the answer to GET /system.
type System struct {
	CPU           CPUUsage `json:"cpu"`
	Memory        Usage    `json:"memory"`
	Disk          Usage    `json:"disk"`
	Hostname      string   `json:"hostname"`
	UptimeSeconds float64  `json:"uptime_seconds"`
	Timestamp     Time     `json:"timestamp"`
}

// A Metrics is the answer to GET /metrics and GET /metrics/snapshot.
type Metrics struct {
	UptimeSeconds    float64            `json:"uptime_seconds"`
	TotalRequests    uint64             `json:"total_requests"`
	TotalErrors      uint64             `json:"total_errors"` // answers with a status of 400 and above
	ErrorCount       uint64             `json:"error_count"`  // the same
	RequestsTotal    map[string]uint64  `json:"requests_total"`
	AvgDurationMS    map[string]float64 `json:"avg_duration_ms"`
	P95DurationMS    float64            `json:"p95_duration_ms"` // of the last requests
	TotalExecutions  uint64             `json:"total_executions"`
	ActiveExecutions int                `json:"active_executions"`
	FailedExecutions uint64             `json:"failed_executions"`
	System           System             `json:"system"`
	Process          ProcessCount       `json:"process"`
	Cache            CacheUse           `json:"cache"`
	Timestamp        Time               `json:"timestamp"`
}

// A ProcessCount says how many processes the guest has.
type ProcessCount struct {
	Count   int `json:"count"`
	Running int `json:"running"`
}

// A CacheUse holds the figures of a cache. The agent caches no results, because
// code may answer differently each time, so they are all zero.
type CacheUse struct {
	Size      int     `json:"size"`
	MaxSize   int     `json:"max_size"`
	Hits      uint64  `json:"hits"`
	TotalHits uint64  `json:"total_hits"`
	Misses    uint64  `json:"misses"`
	HitRate   float64 `json:"hit_rate"`
	TTL       string  `json:"ttl"`
}

// A CacheStats is the answer to GET /cache/stats: the figures nested and flat.
type CacheStats struct {
	Cache     CacheUse `json:"cache"`
	Hits      uint64   `json:"hits"`
	Misses    uint64   `json:"misses"`
	HitRate   float64  `json:"hit_rate"`
	Size      int      `json:"size"`
	Count     int      `json:"count"`
	Timestamp Time     `json:"timestamp"`
}

// A CacheCleared is the answer to POST /cache/clear.
type CacheCleared struct {
	Success        bool   `json:"success"`
	Message        string `json:"message"`
	EntriesRemoved int    `json:"entries_removed"`
	Timestamp      Time   `json:"timestamp"`
}
