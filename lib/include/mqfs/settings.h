/* SPDX-License-Identifier: MIT */
#ifndef MQFS_SETTINGS_H
#define MQFS_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Every setting has one name: a key of the configuration file, an -o option, and, where it can change
 * at run time, a file in config/. One table (settings.c) holds name, type, default and bounds; a
 * setting is a field below. A queue has a copy of its own. Plain values: whoever shares a struct
 * guards it.
 */

enum mqfs_queue_type { MQFS_QUEUE_CLASSIC, MQFS_QUEUE_QUORUM };
enum mqfs_overflow { MQFS_OVERFLOW_DEFAULT, MQFS_OVERFLOW_DROP_HEAD, MQFS_OVERFLOW_REJECT_PUBLISH };
enum mqfs_ack_on { MQFS_ACK_ON_RM, MQFS_ACK_ON_READ };
enum mqfs_take_on { MQFS_TAKE_ON_OPEN, MQFS_TAKE_ON_MOVE };

struct mqfs_settings {
	/* publishing */
	int64_t priority;           /* 0..255 */
	int64_t max_body_bytes;     /* 1 MiB */
	int64_t publish_timeout_ms; /* 10 s */
	int64_t rename_timeout_ms;  /* 1 s */
	int64_t max_drafts;         /* 10000: drafts kept or being written in one queue */
	/* consuming */
	int64_t prefetch; /* 1..65535, 16 */
	int64_t claim_timeout_ms;
	int64_t pending_timeout_ms;
	int64_t idle_release_ms;
	int64_t consumer_timeout_ms; /* the broker's; 30 min */
	enum mqfs_ack_on ack_on;
	enum mqfs_take_on take_on;
	/* failing */
	int64_t max_attempts; /* 1..1000, 8 */
	int64_t backoff_base_ms;
	double backoff_factor;
	int64_t backoff_max_ms;
	int64_t look_max; /* 1..100000, 1000 */
	/* what mkdir declares */
	enum mqfs_queue_type type;
	int64_t max_priority; /* 0 (none)..255, 10 */
	bool lazy;
	int64_t message_ttl_ms; /* 0: none */
	int64_t max_length;     /* 0: none */
	enum mqfs_overflow overflow;
	bool dead_letter;
	bool delete_unsafe;
	/* of the mount */
	int64_t connect_timeout_ms; /* 10 s: the whole of a mount's first connection */
	int64_t heartbeat_ms;       /* 10 s, whole seconds */
	int64_t lease_timeout_ms;   /* 10 s: SQLite, how long a silent mount keeps its messages */
	int64_t workers;            /* 4: threads that read /dev/fuse */
	bool outbox;                /* yes: what the broker can't take now waits in the state file (P6) */
	int64_t outbox_max_bytes;   /* 256 MiB: of all that the state file keeps of drafts */
	int64_t settled_ttl_ms;     /* 24 h: how long outcomes are remembered that the broker was not told (C9) */
	int64_t drain_timeout_ms;   /* 30 s: what an end waits for at most */
};

enum mqfs_setting_scope {
	MQFS_SETTING_QUEUE = 1,   /* differs by queue */
	MQFS_SETTING_RUNTIME = 2, /* may change at run time: has a file in config/ */
	MQFS_SETTING_DECLARE = 4, /* used by mkdir */
	MQFS_SETTING_MOUNT = 8,   /* of the whole mount */
};

struct mqfs_setting {
	const char *name; /* "max-attempts" */
	unsigned scope;   /* enum mqfs_setting_scope, or-ed */
	const char *help; /* one line: meaning, unit, bounds */
};

void mqfs_settings_init(struct mqfs_settings *settings); /* the defaults */

/* The table: NULL past the end. */
const struct mqfs_setting *mqfs_setting_at(size_t index);
const struct mqfs_setting *mqfs_setting_find(const char *name);

/*
 * Sets one from text (surrounding white space is dropped). Times take ms, s, min, h (a bare number is
 * seconds), sizes take K, M (1024), booleans yes/no/true/false/1/0/on/off. Returns 0; -ENOENT for an unknown name;
 * -EINVAL for a bad value, which changes nothing. *ret_error, when not NULL, then points to a static
 * or thread-local text for people.
 */
int mqfs_settings_set(struct mqfs_settings *settings, const char *name, const char *value, const char **ret_error);

/* The value as text that set would take; returns its length, or -ENOENT. Truncates as snprintf does. */
int mqfs_settings_get(const struct mqfs_settings *settings, const char *name, char *buffer, size_t bytes);

#endif
