/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>

#include <mqfs/clock.h>
#include <mqfs/failpoint.h>
#include <mqfs/records.h>

#include "internal.h"

/*
 * Outcomes and takes in the state file: a row each, by queue, message-id and mqfs-copy ('' when absent).
 *
 * What has no message-id is counted by the digest of its body, in rows that no other can have: message-id '', and the
 * digest and this mount's session in place of mqfs-copy. Such a row's takes are the messages of that body which this
 * session holds now, so what the other rows of that digest tell is how many sessions ended while they held one. That is
 * what a killer does, and many equal messages that were held together don't look like one.
 */

enum {
	ORDER_MS = 10000, /* how long another process's lock is waited for */
	FIND_MS = 5000,
	PURGE_LEAST_MS = 1000,
	PURGE_MOST_MS = 3600000,
	ROW_BYTES = 512, /* about */
};

#define HASH_BYTES 32 /* SHA-256 */
#define DIGEST_BYTES (2 * HASH_BYTES)

struct mqfs_records {
	struct mqfs_state *state;
	int64_t ttl_us;
	char session[MQFS_UUID_BYTES];
	struct state_member member;

	/* The state's thread's. */
	struct state_job purge;
	int64_t purge_ms; /* when the next is due */
	bool purging;

	pthread_mutex_t lock; /* a leaf */
	pthread_cond_t idle;
	/* Guarded by lock. */
	size_t outstanding; /* orders that have not completed */
};

enum order_kind { ORDER_DECIDE, ORDER_TAKE, ORDER_GIVE_BACK, ORDER_FORGET, ORDER_FIND };

/* One thing that was asked for. */
struct order {
	struct state_job job; /* first: a job of ours is an order */
	struct mqfs_records *records;
	enum order_kind kind;
	struct mqfs_delivery *delivery;                  /* a reference, but for DECIDE */
	char *queue, *message_id, *copy;                 /* DECIDE: its own */
	char digest[DIGEST_BYTES + 1 + MQFS_UUID_BYTES]; /* "<digest>:<session>"; "" until it is needed */
	enum mqfs_outcome outcome;
	char *error;
	int64_t takes;
	mqfs_done_fn *decided;
	mqfs_records_fn *found;
	void *arg;
};

/* ---- which copy ---- */

static bool has_name(const char *message_id)
{
	return message_id && *message_id;
}

struct mqfs_copy_name mqfs_copy_name(const struct mqfs_delivery *delivery)
{
	const struct mqfs_message *message = delivery->message;

	return (struct mqfs_copy_name){
	    .queue = delivery->queue,
	    .message_id = message->message_id,
	    .copy = mqfs_headers_string(&message->headers, "mqfs-copy"),
	};
}

static void digest(struct order *order)
{
	const struct mqfs_body *body = order->delivery->message->body;
	unsigned char hash[EVP_MAX_MD_SIZE] = {0};

	EVP_Digest(body->data, body->bytes, hash, NULL, EVP_sha256(), NULL);
	for (size_t i = 0; i < HASH_BYTES; i++)
		snprintf(order->digest + 2 * i, 3, "%02x", hash[i]);
	order->digest[DIGEST_BYTES] = ':';
	strcpy(order->digest + DIGEST_BYTES + 1, order->records->session);
}

static struct mqfs_copy_name name_of(struct order *order)
{
	struct mqfs_copy_name name = {order->queue, order->message_id, order->copy};

	if (order->delivery)
		name = mqfs_copy_name(order->delivery);
	if (!has_name(name.message_id)) {
		if (!order->digest[0])
			digest(order);
		name.message_id = "";
		name.copy = order->digest;
	}
	if (!name.copy)
		name.copy = "";
	return name;
}

static int64_t oldest_us(const struct mqfs_records *records)
{
	return mqfs_clock_realtime_us() - records->ttl_us;
}

/* Binds ?1 to ?3 to the copy, ?4 to now, ?5 to the time of the oldest record that counts. */
static sqlite3_stmt *statement_for(struct order *order, const char *sql)
{
	sqlite3_stmt *statement = state_statement(order->records->state, sql);
	struct mqfs_copy_name name = name_of(order);

	if (!statement)
		return NULL;
	sqlite3_bind_text(statement, 1, name.queue, -1, SQLITE_STATIC);
	sqlite3_bind_text(statement, 2, name.message_id, -1, SQLITE_STATIC);
	sqlite3_bind_text(statement, 3, name.copy, -1, SQLITE_STATIC);
	if (sqlite3_bind_parameter_count(statement) >= 4)
		sqlite3_bind_int64(statement, 4, mqfs_clock_realtime_us());
	if (sqlite3_bind_parameter_count(statement) >= 5)
		sqlite3_bind_int64(statement, 5, oldest_us(order->records));
	return statement;
}

#define COPY "queue = ?1 AND message_id = ?2 AND copy = ?3"
/* The rows that other sessions have of the same digest: ';' follows ':'. */
#define DIGEST "substr(?3, 1, instr(?3, ':') - 1)"
#define EQUALS "queue = ?1 AND message_id = ?2 AND copy > " DIGEST " || ':' AND copy < " DIGEST " || ';' AND copy <> ?3"

/* ---- orders, on the state's thread ---- */

static int run_decide(struct mqfs_state *state, struct state_job *job)
{
	static const char sql[] = "INSERT OR REPLACE INTO outcome (queue, message_id, copy, at, outcome, error)"
	                          " VALUES (?1, ?2, ?3, ?4, ?6, ?7)";
	static const char none[] = "DELETE FROM outcome WHERE " COPY;
	struct order *order = (struct order *)job;
	sqlite3_stmt *statement = statement_for(order, order->outcome == MQFS_OUTCOME_NONE ? none : sql);

	(void)state;
	if (!statement)
		return -ENOMEM;
	if (order->outcome == MQFS_OUTCOME_NONE)
		return statement_run(statement);
	sqlite3_bind_int64(statement, 6, order->outcome);
	sqlite3_bind_text(statement, 7, order->error, -1, SQLITE_STATIC);
	FAILPOINT(record_deciding);
	return statement_run(statement);
}

static int run_take(struct mqfs_state *state, struct state_job *job)
{
	static const char sql[] =
	    "INSERT INTO take (queue, message_id, copy, takes, at) VALUES (?1, ?2, ?3, 1, ?4)"
	    " ON CONFLICT DO UPDATE SET takes = CASE WHEN at < ?5 THEN 1 ELSE takes + 1 END, at = ?4";

	(void)state;
	FAILPOINT(record_taking);
	return statement_run(statement_for((struct order *)job, sql));
}

static int run_give_back(struct mqfs_state *state, struct state_job *job)
{
	static const char less[] = "UPDATE take SET takes = takes - 1 WHERE " COPY;
	static const char none[] = "DELETE FROM take WHERE " COPY " AND takes <= 0";
	int r = statement_run(statement_for((struct order *)job, less));

	(void)state;
	return r < 0 ? r : statement_run(statement_for((struct order *)job, none));
}

/* Of equal messages one has been handled, so their body kills nobody. */
static int forget_equals(struct mqfs_state *state, struct order *order)
{
	static const char sql[] = "DELETE FROM take WHERE " EQUALS;
	int r = statement_run(statement_for(order, sql));

	return r < 0 ? r : run_give_back(state, &order->job);
}

static int run_forget(struct mqfs_state *state, struct state_job *job)
{
	static const char take[] = "DELETE FROM take WHERE " COPY;
	static const char outcome[] = "DELETE FROM outcome WHERE " COPY;
	struct order *order = (struct order *)job;
	int r;

	FAILPOINT(record_clearing);
	if (!has_name(order->delivery->message->message_id))
		return forget_equals(state, order);
	r = statement_run(statement_for(order, take));
	return r < 0 ? r : statement_run(statement_for(order, outcome));
}

static int find_takes(struct order *order)
{
	static const char named[] = "SELECT takes FROM take WHERE " COPY " AND at >= ?5";
	static const char equal[] = "SELECT count(*) FROM take WHERE " EQUALS " AND at >= ?5";
	bool name = has_name(order->delivery->message->message_id);

	return statement_integer(statement_for(order, name ? named : equal), 0, &order->takes);
}

static int find_outcome(struct order *order)
{
	static const char sql[] = "SELECT outcome, error FROM outcome WHERE " COPY " AND at >= ?5";
	sqlite3_stmt *statement = statement_for(order, sql);
	const char *error;
	int r = statement_step(statement);

	free(order->error);
	order->error = NULL;
	order->outcome = MQFS_OUTCOME_NONE;
	if (r <= 0)
		return r;
	order->outcome = (enum mqfs_outcome)sqlite3_column_int(statement, 0);
	if (order->outcome > MQFS_OUTCOME_BURY)
		order->outcome = MQFS_OUTCOME_NONE; /* somebody's hand was in the file */
	error = (const char *)sqlite3_column_text(statement, 1);
	if (error)
		order->error = strdup(error);
	sqlite3_reset(statement);
	return 0;
}

static int run_find(struct mqfs_state *state, struct state_job *job)
{
	struct order *order = (struct order *)job;
	int r = find_takes(order);

	(void)state;
	return r < 0 ? r : find_outcome(order);
}

static void completed(struct mqfs_records *records)
{
	pthread_mutex_lock(&records->lock);
	if (--records->outstanding == 0)
		pthread_cond_broadcast(&records->idle);
	pthread_mutex_unlock(&records->lock);
}

static void order_free(struct order *order)
{
	mqfs_delivery_unref(order->delivery);
	free(order->queue);
	free(order->message_id);
	free(order->copy);
	free(order->error);
	free(order);
}

static void pass_point(enum order_kind kind)
{
	if (kind == ORDER_DECIDE) /* NOLINT(bugprone-branch-clone): in the tests' build they differ */
		FAILPOINT(record_decided);
	else if (kind == ORDER_TAKE)
		FAILPOINT(record_taken);
	else if (kind == ORDER_FORGET)
		FAILPOINT(record_cleared);
}

static void order_done(struct mqfs_state *state, struct state_job *job)
{
	struct order *order = (struct order *)job;
	struct mqfs_records *records = order->records;
	struct mqfs_record record = {0};

	(void)state;
	pass_point(order->kind);
	if (order->decided)
		order->decided(order->arg, job->result, NULL);
	if (order->found) {
		if (job->result >= 0)
			record = (struct mqfs_record){order->outcome, order->error, order->takes};
		order->found(order->arg, job->result, &record);
	}
	order_free(order);
	completed(records);
}

/* ---- asking ---- */

static struct order *order_new(struct mqfs_records *records, enum order_kind kind, struct mqfs_delivery *delivery)
{
	static int (*const runs[])(struct mqfs_state *, struct state_job *) = {[ORDER_DECIDE] = run_decide,
	                                                                       [ORDER_TAKE] = run_take,
	                                                                       [ORDER_GIVE_BACK] = run_give_back,
	                                                                       [ORDER_FORGET] = run_forget,
	                                                                       [ORDER_FIND] = run_find};
	struct order *order = calloc(1, sizeof(*order));

	if (!order)
		return NULL;
	order->job = (struct state_job){
	    .run = runs[kind],
	    .done = order_done,
	    .deadline_ms = mqfs_clock_monotonic_ms() + (kind == ORDER_FIND ? FIND_MS : ORDER_MS),
	    .reads = kind == ORDER_FIND,
	    .bytes = ROW_BYTES,
	};
	order->records = records;
	order->kind = kind;
	order->delivery = delivery ? mqfs_delivery_ref(delivery) : NULL;
	return order;
}

static void submit(struct order *order)
{
	struct mqfs_records *records = order->records;

	pthread_mutex_lock(&records->lock);
	records->outstanding++;
	pthread_mutex_unlock(&records->lock);
	state_submit(records->state, &order->job);
}

static bool copy_text(const char *text, char **ret_copy)
{
	*ret_copy = text ? strdup(text) : NULL;
	return !text || *ret_copy;
}

int mqfs_records_decide(struct mqfs_records *records, const struct mqfs_copy_name *name, enum mqfs_outcome outcome,
                        const char *error, mqfs_done_fn *done, void *arg)
{
	struct order *order = order_new(records, ORDER_DECIDE, NULL);

	assert(has_name(name->message_id));
	if (!order)
		return -ENOMEM;
	if (!copy_text(name->queue, &order->queue) || !copy_text(name->message_id, &order->message_id) ||
	    !copy_text(name->copy, &order->copy) || !copy_text(error, &order->error)) {
		order_free(order);
		return -ENOMEM;
	}
	order->outcome = outcome;
	order->decided = done;
	order->arg = arg;
	submit(order);
	return 0;
}

static void ask(struct mqfs_records *records, enum order_kind kind, struct mqfs_delivery *delivery)
{
	struct order *order = order_new(records, kind, delivery);

	if (order)
		submit(order);
}

void mqfs_records_take(struct mqfs_records *records, struct mqfs_delivery *delivery)
{
	ask(records, ORDER_TAKE, delivery);
}

void mqfs_records_give_back(struct mqfs_records *records, struct mqfs_delivery *delivery)
{
	ask(records, ORDER_GIVE_BACK, delivery);
}

void mqfs_records_forget(struct mqfs_records *records, struct mqfs_delivery *delivery)
{
	ask(records, ORDER_FORGET, delivery);
}

int mqfs_records_find(struct mqfs_records *records, struct mqfs_delivery *delivery, mqfs_records_fn *done, void *arg)
{
	struct order *order = order_new(records, ORDER_FIND, delivery);

	if (!order)
		return -ENOMEM;
	order->found = done;
	order->arg = arg;
	submit(order);
	return 0;
}

/* ---- age ---- */

static int run_purge(struct mqfs_state *state, struct state_job *job)
{
	static const char *const sqls[] = {"DELETE FROM outcome WHERE at < ?1", "DELETE FROM take WHERE at < ?1"};
	struct mqfs_records *records = (struct mqfs_records *)((char *)job - offsetof(struct mqfs_records, purge));
	int r = 0;

	for (size_t i = 0; r == 0 && i < sizeof(sqls) / sizeof(sqls[0]); i++) {
		sqlite3_stmt *statement = state_statement(state, sqls[i]);

		sqlite3_bind_int64(statement, 1, oldest_us(records));
		r = statement_run(statement);
	}
	return r;
}

static void purged(struct mqfs_state *state, struct state_job *job)
{
	struct mqfs_records *records = (struct mqfs_records *)((char *)job - offsetof(struct mqfs_records, purge));

	(void)state;
	records->purging = false;
	completed(records);
}

static int64_t purge_every_ms(const struct mqfs_records *records)
{
	int64_t every_ms = records->ttl_us / 1000 / 4;

	return every_ms < PURGE_LEAST_MS ? PURGE_LEAST_MS : every_ms > PURGE_MOST_MS ? PURGE_MOST_MS : every_ms;
}

static int64_t tick(struct mqfs_state *state, struct state_member *member, int64_t now_ms)
{
	struct mqfs_records *records = (struct mqfs_records *)((char *)member - offsetof(struct mqfs_records, member));

	if (records->purging || now_ms < records->purge_ms)
		return records->purge_ms;
	records->purge_ms = now_ms + purge_every_ms(records);
	records->purging = true;
	records->purge = (struct state_job){.run = run_purge, .done = purged, .deadline_ms = now_ms + ORDER_MS};
	pthread_mutex_lock(&records->lock);
	records->outstanding++;
	pthread_mutex_unlock(&records->lock);
	state_submit(state, &records->purge);
	return records->purge_ms;
}

/* ---- life ---- */

struct mqfs_records *mqfs_records_open(struct mqfs_state *state, int64_t ttl_ms)
{
	struct mqfs_records *records = calloc(1, sizeof(*records));

	if (!records)
		return NULL;
	records->state = state;
	records->ttl_us = ttl_ms * 1000;
	mqfs_uuid(records->session);
	pthread_mutex_init(&records->lock, NULL);
	pthread_cond_init(&records->idle, NULL);
	records->member.tick = tick;
	state_join(state, &records->member);
	return records;
}

void mqfs_records_close(struct mqfs_records *records)
{
	if (!records)
		return;
	state_leave(records->state, &records->member);
	pthread_mutex_lock(&records->lock);
	while (records->outstanding > 0)
		pthread_cond_wait(&records->idle, &records->lock);
	pthread_mutex_unlock(&records->lock);
	pthread_cond_destroy(&records->idle);
	pthread_mutex_destroy(&records->lock);
	free(records);
}
