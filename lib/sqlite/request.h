/* SPDX-License-Identifier: MIT */
#ifndef MQFS_SQLITE_REQUEST_H
#define MQFS_SQLITE_REQUEST_H

#include <mqfs/backend.h>

enum request_kind {
	REQUEST_DECLARE,
	REQUEST_FIND,
	REQUEST_DELETE,
	REQUEST_LIST,
	REQUEST_DEPTHS,
	REQUEST_PUBLISH,
	REQUEST_CONSUME,
	REQUEST_CANCEL,
	REQUEST_SETTLE,
	REQUEST_BROWSE,
};

/*
 * One call of the backend's, from its caller to the writer. Whoever holds it owns it: the caller until
 * it is queued, then the writer. What a handler sets it may set again: a transaction that failed is
 * repeated.
 */
struct request {
	struct request *next;
	enum request_kind kind;
	int64_t deadline_ms; /* monotonic; MQFS_NEVER */
	char *queue;         /* behind the struct, as target is */
	char *target;        /* of a MOVE: to its end; NULL: within the delivery's queue */
	union {
		mqfs_done_fn *done;
		mqfs_list_fn *listed;
		mqfs_depths_fn *counted;
		mqfs_browse_fn *browsed;
	};
	void *arg;

	/* PUBLISH, and the copy of a MOVE */
	struct mqfs_message *message;
	enum mqfs_place place; /* also of BROWSE */
	int64_t delay_ms;

	union {
		struct {
			struct mqfs_delivery *delivery; /* a reference */
			enum mqfs_verb verb;
		} settle;
		struct {
			int64_t max_priority;
			int64_t message_ttl_ms;
			int64_t max_length;
			enum mqfs_overflow overflow;
			bool dead_letter;
		} declare;
		struct {
			int prefetch;
			const struct mqfs_sink *sink;
		} consume;
		struct {
			size_t limit;
		} browse;
	};

	/* The outcome. reason is a static text. */
	int result;
	const char *reason;
	struct mqfs_depths depths;
	struct mqfs_delivery **deliveries; /* of BROWSE */
	char **names;                      /* of LIST */
	size_t count;
};

/* Never NULL; see there. target may be NULL. */
struct request *request_new(enum request_kind kind, const char *queue, const char *target, int64_t deadline_ms);
/* Lists of requests, the oldest first. */
void request_append(struct request **list, struct request *tail);
/* Takes out, in their order, those that belong. */
struct request *request_part(struct request **list, bool (*belongs)(const struct request *request, int64_t now_ms),
                             int64_t now_ms);
/* Calls back with the outcome and frees the request. */
void request_complete(struct request *request);
/* Forgets what a handler found, so that it may run again. */
void request_reset(struct request *request);
/* Does it change the file? */
bool request_writes(const struct request *request);

/* Sets a documented outcome; returns 0, so that a handler can end with it. */
int request_refuse(struct request *request, int result, const char *reason);

#endif
