/* SPDX-License-Identifier: MIT */
#ifndef MQFS_BACKEND_H
#define MQFS_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <mqfs/delivery.h>
#include <mqfs/message.h>
#include <mqfs/settings.h>

/*
 * What stands behind a mount: RabbitMQ or the embedded SQLite store. Requests are asynchronous: a
 * call queues work and returns, and the completion runs later on a thread of the backend's, exactly
 * once (also when the backend closes: -ESHUTDOWN), never inside the call itself. No lock of the backend's is held while
 * a completion or a sink function runs, so these may call the backend again; they must not block.
 *
 * All functions are thread-safe. Strings and structs passed in are copied unless said otherwise.
 *
 * Outcomes are 0 or a negative errno; reason is text for people, valid during the completion only,
 * and may be NULL:
 *   -ENOENT      no such queue; a mandatory message was returned as unroutable (basic.return 312)
 *   -EHOSTDOWN   the broker is away; nothing was sent
 *   -ETIMEDOUT   the deadline passed, or the connection went, with the outcome unknown
 *   -ENOSPC      the queue is full (basic.nack), or the disk
 *   -EFBIG       larger than the broker takes
 *   -EACCES      refused by permissions (403), -EPERM another refusal that will not pass by itself
 *   -EINVAL      the message or name can't be encoded (headers larger than a frame, …)
 *   -ESTALE      the delivery's connection or lease is over: it is delivered again by itself
 *   -EBUSY, -ENOTEMPTY, -EOPNOTSUPP   see queue_delete
 *   -EEXIST      see queue_declare
 *   -EIO         the store is damaged, a protocol error
 *   -ENOMEM, -ESHUTDOWN
 */

struct mqfs_backend;

/* Nothing but an outcome. */
typedef void mqfs_done_fn(void *arg, int result, const char *reason);

struct mqfs_depths {
	int64_t ready;
	int64_t consumers; /* of everybody; on SQLite: mounts that consume now */
	int64_t retry;
	int64_t dead;
};
typedef void mqfs_depths_fn(void *arg, int result, const struct mqfs_depths *depths);

/* Names are valid during the call only. */
typedef void mqfs_list_fn(void *arg, int result, const char *const *queues, size_t count);

/* The array is valid during the call only; the references in it pass to the callee. */
typedef void mqfs_browse_fn(void *arg, int result, struct mqfs_delivery **deliveries, size_t count);

/* Where a consumer's deliveries go. Called from one thread of the backend's at a time, in order. */
struct mqfs_sink {
	/* The reference passes to the callee. */
	void (*delivered)(void *arg, struct mqfs_delivery *delivery);
	/* Every delivery of this consumer with delivery->generation <= generation is out of our hands:
	 * the broker (or, on SQLite, the store, the lease being over) delivers it again. What was lost between a
	 * cancel and the next consume is told then, before anything is delivered. */
	void (*lost)(void *arg, uint64_t generation);
	/* The queue had nothing more just now. May come never, and more than once. */
	void (*drained)(void *arg);
	/* Once before the first delivery and again after each reconnect: 0 when the places RETRY and
	 * DEAD exist for this queue, else why not (-EACCES, …): then a message can't be moved there. */
	void (*prepared)(void *arg, int result, const char *reason);
	/* The broker ended the consumer (basic.cancel: the queue was deleted; -ENOENT) or refuses it
	 * (-EACCES, …). It is no longer consuming; the deliveries it had are lost. consume may be called again later.
	 */
	void (*ended)(void *arg, int result, const char *reason);
};

/* settle's outcome of a MOVE that is half done; see there. */
#define MQFS_MOVED_STALE 1

/* What becomes of a held delivery. */
enum mqfs_verb {
	MQFS_VERB_ACK,     /* done: forget it (dead/: discard) */
	MQFS_VERB_RELEASE, /* put it back as it was, uncounted; a look puts back what it held */
	MQFS_VERB_MOVE,    /* copy goes to queue/place, safe there before the original is acknowledged */
};

struct mqfs_disposition {
	enum mqfs_verb verb;
	/* MOVE only. queue NULL: the delivery's own. The copy is taken over by a call that completes,
	 * whatever its outcome. delay_ms for RETRY; next_at is then the backend's to compute. */
	const char *queue;
	enum mqfs_place place;
	int64_t delay_ms;
	struct mqfs_message *copy;
};

struct mqfs_backend_status {
	bool connected;
	int64_t since_us; /* real time of the last change */
	char peer[128];   /* "amqp://host:5672/vhost" without credentials, or "sqlite:PATH" */
	char product[64]; /* "RabbitMQ 3.10.8", "SQLite 3.40.1" */
	/* It owes an answer, and has said nothing for so long; 0: it does not. */
	int64_t silent_ms;
	char reason[512]; /* why it is away, or blocked; "" when well */
};

struct mqfs_backend_ops {
	const char *scheme;
	/* Does a look hold messages from others (AMQP), so that it must be short? */
	bool looks_hold;
	/* May a delivery be held for ever? (AMQP brokers take it back at consumer-timeout.) */
	bool patient;
	/* Does settle's 0 for an ACK say that it was sent, and no more (AMQP)? Then a lost connection leaves it open.
	 */
	bool acks_blind;

	/* Ends consumers, gives back what is held, completes all that is pending (-ESHUTDOWN), joins
	 * the threads, frees. Blocks up to about 5 s. */
	void (*close)(struct mqfs_backend *backend);
	void (*status)(struct mqfs_backend *backend, struct mqfs_backend_status *ret_status);

	/* Makes a durable queue as settings say. 0, also when it was made by somebody in between;
	 * -EEXIST when it exists already with other arguments or any arguments (it is then left as it is). */
	void (*queue_declare)(struct mqfs_backend *backend, const char *queue, const struct mqfs_settings *settings,
	                      int64_t deadline_ms, mqfs_done_fn *done, void *arg);
	/* 0, -ENOENT. Never creates it. */
	void (*queue_find)(struct mqfs_backend *backend, const char *queue, int64_t deadline_ms, mqfs_done_fn *done,
	                   void *arg);
	/* Q3. -ENOTEMPTY when something is in READY, RETRY or DEAD; -EBUSY when others consume;
	 * -EOPNOTSUPP when the broker can't check and delete in one step and unsafe is false. */
	void (*queue_delete)(struct mqfs_backend *backend, const char *queue, bool unsafe, int64_t deadline_ms,
	                     mqfs_done_fn *done, void *arg);
	/* Every work queue it can name, without helpers; AMQP can't (0 queues). */
	void (*queue_list)(struct mqfs_backend *backend, mqfs_list_fn *done, void *arg);
	void (*queue_depths)(struct mqfs_backend *backend, const char *queue, int64_t deadline_ms, mqfs_depths_fn *done,
	                     void *arg);

	/*
	 * Publishes durably; 0 means confirmed. message is taken over. READY, or RETRY with delay_ms
	 * rounded up ("not before"). Completes by deadline_ms (monotonic).
	 */
	void (*publish)(struct mqfs_backend *backend, const char *queue, enum mqfs_place place, int64_t delay_ms,
	                struct mqfs_message *message, int64_t deadline_ms, mqfs_done_fn *done, void *arg);

	/*
	 * Starts consuming, with at most prefetch deliveries unsettled; a second call changes prefetch.
	 * Survives reconnects until cancel. sink and arg stay valid until cancel has completed, after which no sink
	 * function runs. cancel leaves held deliveries settleable, and completes with 0 also when nothing
	 * is being consumed (after ended).
	 */
	void (*consume)(struct mqfs_backend *backend, const char *queue, int prefetch, const struct mqfs_sink *sink,
	                void *arg);
	void (*cancel)(struct mqfs_backend *backend, const char *queue, mqfs_done_fn *done, void *arg);

	/* Settles a delivery of consume or browse; the caller keeps its reference. -ESTALE: see above. For a MOVE that
	 * failed the delivery is still held, and settle may be called again. One outcome is MOVE's alone:
	 * MQFS_MOVED_STALE (positive) says that the copy is confirmed in its place, but that the original's connection
	 * was lost before it was acknowledged; all that is left to do when it is delivered again is to acknowledge it.
	 */
	void (*settle)(struct mqfs_backend *backend, struct mqfs_delivery *delivery,
	               const struct mqfs_disposition *disposition, int64_t deadline_ms, mqfs_done_fn *done, void *arg);

	/*
	 * Looks at up to limit messages in RETRY or DEAD. Where looks_hold is true they stay held until
	 * settled (RELEASE puts them back to their place without harm to any delivery limit); else a settle finds out
	 * whether the message is still there (-ENOENT). No queue or an empty one gives 0 messages.
	 */
	void (*browse)(struct mqfs_backend *backend, const char *queue, enum mqfs_place place, size_t limit,
	               int64_t deadline_ms, mqfs_browse_fn *done, void *arg);
};

struct mqfs_backend {
	const struct mqfs_backend_ops *ops;
};

/*
 * Opens the backend of a URL: "amqp://…" (also amqps://), or "sqlite:PATH". Blocks until it is
 * usable, at most connect-timeout. 0, or a negative errno with *ret_error a new string for people
 * (no credentials in it). settings is copied.
 */
int mqfs_backend_open(const char *url, const struct mqfs_settings *settings, struct mqfs_backend **ret_backend,
                      char **ret_error);

/*
 * The single dispatch (backend.c): each asserts the preconditions, logs at debug, and calls ops. All
 * callers use these.
 */
void mqfs_backend_close(struct mqfs_backend *backend);
bool mqfs_backend_looks_hold(const struct mqfs_backend *backend);
void mqfs_backend_status(struct mqfs_backend *backend, struct mqfs_backend_status *ret_status);
void mqfs_queue_declare(struct mqfs_backend *backend, const char *queue, const struct mqfs_settings *settings,
                        int64_t deadline_ms, mqfs_done_fn *done, void *arg);
void mqfs_queue_find(struct mqfs_backend *backend, const char *queue, int64_t deadline_ms, mqfs_done_fn *done,
                     void *arg);
void mqfs_queue_delete(struct mqfs_backend *backend, const char *queue, bool unsafe, int64_t deadline_ms,
                       mqfs_done_fn *done, void *arg);
void mqfs_queue_list(struct mqfs_backend *backend, mqfs_list_fn *done, void *arg);
void mqfs_queue_depths(struct mqfs_backend *backend, const char *queue, int64_t deadline_ms, mqfs_depths_fn *done,
                       void *arg);
void mqfs_publish(struct mqfs_backend *backend, const char *queue, enum mqfs_place place, int64_t delay_ms,
                  struct mqfs_message *message, int64_t deadline_ms, mqfs_done_fn *done, void *arg);
void mqfs_consume(struct mqfs_backend *backend, const char *queue, int prefetch, const struct mqfs_sink *sink,
                  void *arg);
void mqfs_cancel(struct mqfs_backend *backend, const char *queue, mqfs_done_fn *done, void *arg);
void mqfs_settle(struct mqfs_backend *backend, struct mqfs_delivery *delivery,
                 const struct mqfs_disposition *disposition, int64_t deadline_ms, mqfs_done_fn *done, void *arg);
void mqfs_browse(struct mqfs_backend *backend, const char *queue, enum mqfs_place place, size_t limit,
                 int64_t deadline_ms, mqfs_browse_fn *done, void *arg);

#endif
