/* SPDX-License-Identifier: MIT */
#include "core.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include <mqfs/clock.h>
#include <mqfs/failpoint.h>
#define LOG_TOPIC "state"
#include <mqfs/log.h>

/*
 * The one thread that touches the file. While one commit waits for the disk the next batch gathers by itself, so
 * nothing waits on purpose, and the more is queued, the more share one synchronisation.
 *
 * A job finds out whether it must refuse before it changes anything, so a refusal leaves nothing to undo. When one
 * fails after that (the disk is full, say), the transaction is rolled back and each of its jobs is repeated in one of
 * its own: whose fault it was fails again, and only that.
 *
 * When another process holds the lock, jobs stay in the backlog until their deadlines; those that only read need none,
 * unless they were queued behind one that writes: what was decided about a copy (C9) has to be found.
 */

enum {
	BATCH_JOBS_MAX = 1024,
	BATCH_BYTES_MAX = 8 << 20,
	LOCK_PATIENCE_MS = 100, /* one attempt's; deadlines are looked at in between */
	FAREWELL_MS = 2000,     /* how long a close waits for the disk */
};

static const char *trouble_text(int result)
{
	switch (result) {
	case -ENOSPC:
		return "the disk is full";
	case -EROFS:
		return "it is read-only";
	case -EACCES:
		return "no permission to write it";
	case -ENOMEM:
		return "out of memory";
	}
	return "it could not be read or written";
}

static void note_trouble(struct mqfs_state *state, int result)
{
	if (result == state->trouble)
		return;
	if (result < 0)
		log_warning("%s: %s", state->path, trouble_text(result));
	else
		log_info("%s: works again", state->path);
	state->trouble = result;
}

/* ---- transactions ---- */

static const char BEGIN[] = "BEGIN", BEGIN_WRITE[] = "BEGIN IMMEDIATE", COMMIT[] = "COMMIT", ROLLBACK[] = "ROLLBACK";

static void rollback(struct mqfs_state *state)
{
	/* Some errors have rolled back by themselves. */
	if (!sqlite3_get_autocommit(state->db))
		statement_run(state_statement(state, ROLLBACK));
	state->checkpoint.reserved_pages = 0;
}

static int begin(struct mqfs_state *state, bool write)
{
	state->checkpoint.busy_until_ms = mqfs_clock_monotonic_ms() + LOCK_PATIENCE_MS;
	return statement_run(state_statement(state, write ? BEGIN_WRITE : BEGIN));
}

static int commit(struct mqfs_state *state)
{
	int r = checkpoint_reserve(&state->checkpoint);

	return r < 0 ? r : statement_run(state_statement(state, COMMIT));
}

static bool any_writes(const struct state_job *list)
{
	while (list && list->reads)
		list = list->next;
	return list;
}

/* One transaction of all of the list. 0 and every outcome is set, or a negative errno and nothing was done. */
static int attempt(struct mqfs_state *state, struct state_job *list)
{
	bool writes = any_writes(list);
	int r;

	/* When the last ROLLBACK itself has failed. */
	if (!sqlite3_get_autocommit(state->db))
		rollback(state);
	r = begin(state, writes);
	if (r < 0)
		return r;
	for (struct state_job *job = list; job && r >= 0; job = job->next) {
		job->result = 0;
		r = job->run(state, job);
	}
	if (r >= 0 && writes)
		FAILPOINT(state_committing);
	if (r >= 0)
		r = commit(state);
	if (r >= 0 && writes)
		FAILPOINT(state_committed);
	if (r < 0)
		rollback(state);
	return r < 0 ? r : 0;
}

/* ---- lists of jobs ---- */

static void append(struct state_job **list, struct state_job *tail)
{
	while (*list)
		list = &(*list)->next;
	*list = tail;
}

static void complete(struct mqfs_state *state, struct state_job *list)
{
	while (list) {
		struct state_job *job = list;

		list = job->next;
		job->done(state, job);
	}
}

static void fail(struct mqfs_state *state, struct state_job *list, int result)
{
	for (struct state_job *job = list; job; job = job->next)
		job->result = result;
	complete(state, list);
}

/* Takes out, in their order, those that are late. */
static struct state_job *take_late(struct state_job **list, int64_t now_ms)
{
	struct state_job *taken = NULL, **end = &taken;

	while (*list) {
		if ((*list)->deadline_ms > now_ms) {
			list = &(*list)->next;
			continue;
		}
		*end = *list;
		end = &(*list)->next;
		*list = *end;
		*end = NULL;
	}
	return taken;
}

/* Takes out those that only read, up to the first that writes. */
static struct state_job *take_reads(struct state_job **list)
{
	struct state_job *taken = *list, **end = &taken;

	while (*end && (*end)->reads)
		end = &(*end)->next;
	*list = *end;
	*end = NULL;
	return taken;
}

/* What fits into one transaction. */
static struct state_job *take_batch(struct mqfs_state *state)
{
	struct state_job *batch = state->backlog, **end = &state->backlog;
	size_t bytes = 0;

	for (int count = 0; *end && count < BATCH_JOBS_MAX && bytes < BATCH_BYTES_MAX; count++) {
		bytes += (*end)->bytes;
		end = &(*end)->next;
	}
	state->backlog = *end;
	*end = NULL;
	return batch;
}

static void put_back(struct mqfs_state *state, struct state_job *list)
{
	append(&list, state->backlog);
	state->backlog = list;
}

/* ---- group commit ---- */

/* *last: how the last that writes fared. */
static void commit_singly(struct mqfs_state *state, struct state_job *list, int *last)
{
	while (list) {
		struct state_job *job = list;
		int r;

		list = job->next;
		job->next = NULL;
		r = attempt(state, job);
		if (r == -EAGAIN) {
			job->next = list;
			put_back(state, job);
			return;
		}
		if (!job->reads)
			*last = r;
		if (r < 0)
			job->result = r;
		job->done(state, job);
	}
}

static void locked_out(struct mqfs_state *state, struct state_job *batch)
{
	struct state_job *reads = take_reads(&batch);

	put_back(state, batch);
	if (!reads)
		return;
	if (attempt(state, reads) == 0)
		complete(state, reads);
	else
		put_back(state, reads);
}

static void commit_group(struct mqfs_state *state)
{
	struct state_job *batch = take_batch(state);
	bool writes = any_writes(batch);
	int r;

	if (!batch)
		return;
	r = attempt(state, batch);
	if (r == 0) {
		complete(state, batch);
		if (writes)
			FAILPOINT(state_answered);
	} else if (r == -EAGAIN) {
		locked_out(state, batch);
	} else {
		log_debug("%s: a transaction failed: %s", state->path, strerror(-r));
		if (r == -ENOSPC)
			checkpoint_make_room(&state->checkpoint);
		commit_singly(state, batch, &r);
	}
	if (writes && r != -EAGAIN)
		note_trouble(state, r);
}

/* ---- the thread ---- */

/* Each member's tick; returns when the first of them wants to run again. */
static int64_t tick_members(struct mqfs_state *state, int64_t now_ms)
{
	int64_t next_ms = MQFS_NEVER;
	struct state_member *member;

	pthread_mutex_lock(&state->lock);
	for (member = state->members; member; member = member->next) {
		int64_t at_ms;

		state->ticking = member;
		pthread_mutex_unlock(&state->lock);
		at_ms = member->tick(state, member, now_ms);
		if (at_ms < next_ms)
			next_ms = at_ms;
		pthread_mutex_lock(&state->lock);
		/* It stays in the list until leave, which waits for this, has seen it. */
		state->ticking = NULL;
		pthread_cond_broadcast(&state->ticked);
	}
	pthread_mutex_unlock(&state->lock);
	return next_ms;
}

static int64_t writer_round(struct mqfs_state *state)
{
	int64_t next_ms, log_ms;

	fail(state, take_late(&state->backlog, mqfs_clock_monotonic_ms()), -ETIMEDOUT);
	commit_group(state);
	next_ms = tick_members(state, mqfs_clock_monotonic_ms());
	checkpoint_run(&state->checkpoint, mqfs_clock_monotonic_ms());
	log_ms = checkpoint_next(&state->checkpoint);
	if (state->backlog)
		return 0;
	return log_ms < next_ms ? log_ms : next_ms;
}

static void writer_sleep(struct mqfs_state *state, int64_t until_ms)
{
	struct timespec until = {.tv_sec = until_ms / 1000, .tv_nsec = until_ms % 1000 * 1000000};
	int r = 0;

	state->sleeping = true;
	while (!state->jobs && !state->closing && !state->poked && r == 0) {
		if (until_ms == MQFS_NEVER)
			r = pthread_cond_wait(&state->wake, &state->lock);
		else
			r = pthread_cond_timedwait(&state->wake, &state->lock, &until);
	}
	state->sleeping = false;
}

/* Waits for work and takes what was queued. true: the state is being closed. */
static bool writer_collect(struct mqfs_state *state, int64_t until_ms)
{
	struct state_job *fresh;
	bool closing;

	pthread_mutex_lock(&state->lock);
	if (until_ms > mqfs_clock_monotonic_ms())
		writer_sleep(state, until_ms);
	fresh = state->jobs;
	state->jobs = NULL;
	state->jobs_end = &state->jobs;
	state->poked = false;
	closing = state->closing;
	pthread_mutex_unlock(&state->lock);
	append(&state->backlog, fresh);
	return closing;
}

/* What was queued is done if it can be. */
static void writer_farewell(struct mqfs_state *state)
{
	int64_t until_ms = mqfs_clock_monotonic_ms() + FAREWELL_MS;

	while (state->backlog && mqfs_clock_monotonic_ms() < until_ms) {
		writer_round(state);
		writer_collect(state, 0);
	}
	while (state->backlog) {
		struct state_job *rest = state->backlog;

		state->backlog = NULL;
		fail(state, rest, -ESHUTDOWN);
		writer_collect(state, 0);
	}
}

static void *writer_main(void *arg)
{
	struct mqfs_state *state = arg;
	int64_t next_ms = MQFS_NEVER;

	while (!writer_collect(state, next_ms))
		next_ms = writer_round(state);
	writer_farewell(state);
	return NULL;
}

int state_start(struct mqfs_state *state)
{
	static const char *const needed[] = {BEGIN, BEGIN_WRITE, COMMIT, ROLLBACK};
	sigset_t all, old;
	int r;

	/* When they are needed there may be no memory for them. */
	for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++)
		if (!state_statement(state, needed[i]))
			return -ENOMEM;
	/* Signals are main's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&state->thread, NULL, writer_main, state);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -r;
}

void state_stop(struct mqfs_state *state)
{
	pthread_mutex_lock(&state->lock);
	state->closing = true;
	pthread_mutex_unlock(&state->lock);
	pthread_cond_signal(&state->wake);
	pthread_join(state->thread, NULL);
}

/* ---- what members and callers use ---- */

void state_submit(struct mqfs_state *state, struct state_job *job)
{
	bool wake;

	job->next = NULL;
	job->result = 0;
	pthread_mutex_lock(&state->lock);
	*state->jobs_end = job;
	state->jobs_end = &job->next;
	wake = state->sleeping;
	pthread_mutex_unlock(&state->lock);
	if (wake)
		pthread_cond_signal(&state->wake);
}

void state_poke(struct mqfs_state *state)
{
	pthread_mutex_lock(&state->lock);
	state->poked = true;
	pthread_mutex_unlock(&state->lock);
	pthread_cond_signal(&state->wake);
}

void state_join(struct mqfs_state *state, struct state_member *member)
{
	pthread_mutex_lock(&state->lock);
	member->next = state->members;
	state->members = member;
	pthread_mutex_unlock(&state->lock);
	state_poke(state);
}

void state_leave(struct mqfs_state *state, struct state_member *member)
{
	struct state_member **at = &state->members;

	pthread_mutex_lock(&state->lock);
	while (state->ticking == member)
		pthread_cond_wait(&state->ticked, &state->lock);
	while (*at != member)
		at = &(*at)->next;
	*at = member->next;
	pthread_mutex_unlock(&state->lock);
}

sqlite3_stmt *state_statement(struct mqfs_state *state, const char *sql)
{
	struct prepared *prepared;

	HASH_FIND_PTR(state->prepared, &sql, prepared);
	if (prepared) {
		sqlite3_reset(prepared->statement);
		sqlite3_clear_bindings(prepared->statement);
		return prepared->statement;
	}
	prepared = calloc(1, sizeof(*prepared));
	if (!prepared)
		return NULL;
	prepared->sql = sql;
	if (sqlite3_prepare_v3(state->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &prepared->statement, NULL) !=
	    SQLITE_OK) {
		log_debug("%s: %s: %s", state->path, sql, sqlite3_errmsg(state->db));
		free(prepared);
		return NULL;
	}
	HASH_ADD_PTR(state->prepared, sql, prepared);
	if (!prepared->hh.tbl) {
		sqlite3_finalize(prepared->statement);
		free(prepared);
		return NULL;
	}
	return prepared->statement;
}

int64_t state_changes(struct mqfs_state *state)
{
	return sqlite3_changes64(state->db);
}

const char *state_boot_id(const struct mqfs_state *state)
{
	return state->boot_id;
}
