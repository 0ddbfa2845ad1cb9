/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <mqfs/clock.h>

#include "db/codec.h"

#include "outbox_internal.h"

/*
 * Entries as rows, and what fs/ asks of them. Each request is a job: the head is encoded by the caller, and the
 * transaction has only to find out whether it may, and to write.
 */

enum {
	OVERHEAD_BYTES = 512,  /* charged for each entry: rows and indexes */
	REMOVALS_KEPT = 10000, /* watch.c scans when it has missed more */
	TWIN_DIGITS_MAX = 6,
	TWIN_MAX = 999999,
	TWIN_BASE_MAX = MQFS_NAME_MAX - 1 - TWIN_DIGITS_MAX,
};

/* ---- names ---- */

struct twin {
	mqfs_name_t base;
	int64_t number; /* 1: the base alone */
};

/* "x~3" is twin 3 of "x". One name has one reading, so equal names are equal pairs. */
static void twin_read(const char *name, struct twin *ret_twin)
{
	const char *tilde = strrchr(name, '~');
	size_t digits = tilde ? strspn(tilde + 1, "0123456789") : 0;

	snprintf(ret_twin->base, sizeof(ret_twin->base), "%s", name);
	ret_twin->number = 1;
	if (digits == 0 || digits > TWIN_DIGITS_MAX || tilde[1 + digits] != '\0' || tilde[1] == '0' ||
	    strcmp(tilde, "~1") == 0 || tilde == name || tilde - name > TWIN_BASE_MAX)
		return;
	ret_twin->base[tilde - name] = '\0';
	ret_twin->number = atoi(tilde + 1);
}

static void twin_write(const char *base, int64_t number, mqfs_name_t ret_name)
{
	if (number == 1)
		snprintf(ret_name, sizeof(mqfs_name_t), "%s", base);
	else
		snprintf(ret_name, sizeof(mqfs_name_t), "%.*s~%lld", TWIN_BASE_MAX, base, (long long)number);
}

/* Room for "~" and a number behind it; no UTF-8 character is cut in two. */
static void twin_cut(struct twin *twin)
{
	size_t length = strlen(twin->base);

	if (length <= TWIN_BASE_MAX)
		return;
	for (length = TWIN_BASE_MAX; length > 1 && (twin->base[length] & 0xc0) == 0x80;)
		length--;
	twin->base[length] = '\0';
}

/* ---- pieces of transactions ---- */

static int line_find(struct mqfs_state *state, const char *queue, int64_t *ret_line)
{
	static const char select[] = "SELECT id FROM line WHERE queue = ?1";
	static const char insert[] = "INSERT INTO line (queue) VALUES (?1) RETURNING id";
	sqlite3_stmt *statement = state_statement(state, select);
	int r;

	sqlite3_bind_text(statement, 1, queue, -1, SQLITE_STATIC);
	r = statement_integer(statement, 0, ret_line);
	if (r < 0 || *ret_line > 0)
		return r;
	statement = state_statement(state, insert);
	sqlite3_bind_text(statement, 1, queue, -1, SQLITE_STATIC);
	return statement_integer(statement, 0, ret_line);
}

/* 1: twin is free, or id's own. */
static int twin_is_free(struct mqfs_state *state, int64_t line, int priority, const struct twin *twin, int64_t id)
{
	static const char select[] =
	    "SELECT id FROM entry WHERE line = ?1 AND priority = ?2 AND base = ?3 AND twin = ?4";
	sqlite3_stmt *statement = state_statement(state, select);
	int64_t found;
	int r;

	sqlite3_bind_int64(statement, 1, line);
	sqlite3_bind_int(statement, 2, priority);
	sqlite3_bind_text(statement, 3, twin->base, -1, SQLITE_STATIC);
	sqlite3_bind_int64(statement, 4, twin->number);
	r = statement_integer(statement, 0, &found);
	return r < 0 ? r : found == 0 || found == id;
}

/* The number after the last twin of base; where somebody has used the very last, the first that is free. */
static int twin_next(struct mqfs_state *state, int64_t line, int priority, const char *base, int64_t *ret_number)
{
	static const char last[] = "SELECT max(twin) FROM entry WHERE line = ?1 AND priority = ?2 AND base = ?3";
	static const char gap[] =
	    "SELECT min(e.twin) FROM entry e WHERE line = ?1 AND priority = ?2 AND base = ?3 AND NOT EXISTS"
	    " (SELECT 1 FROM entry n WHERE n.line = ?1 AND n.priority = ?2 AND n.base = ?3 AND n.twin = e.twin + 1)";
	int64_t number = TWIN_MAX;
	int r = 0;

	for (int i = 0; i < 2 && r == 0 && number >= TWIN_MAX; i++) {
		sqlite3_stmt *statement = state_statement(state, i == 0 ? last : gap);

		sqlite3_bind_int64(statement, 1, line);
		sqlite3_bind_int(statement, 2, priority);
		sqlite3_bind_text(statement, 3, base, -1, SQLITE_STATIC);
		r = statement_integer(statement, 1, &number);
	}
	*ret_number = number + 1;
	return r;
}

/* The name itself, or the twin after the last; without looking at the others, however many there are. */
static int twin_choose(struct mqfs_state *state, int64_t line, int priority, const char *name, int64_t id,
                       struct twin *ret_twin)
{
	int r;

	twin_read(name, ret_twin);
	r = twin_is_free(state, line, priority, ret_twin, id);
	if (r != 0)
		return r < 0 ? r : 0;
	twin_cut(ret_twin);
	return twin_next(state, line, priority, ret_twin->base, &ret_twin->number);
}

int entry_revise(struct mqfs_state *state, int64_t bytes, int64_t *ret_revision)
{
	static const char update[] = "UPDATE about SET revision = revision + 1, bytes = bytes + ?1 RETURNING revision";
	sqlite3_stmt *statement = state_statement(state, update);

	sqlite3_bind_int64(statement, 1, bytes);
	return statement_integer(statement, 0, ret_revision);
}

static bool is_in_flight(struct mqfs_state *state, int kind, int64_t position, int64_t flight_to, const char *boot,
                         int64_t lease_until)
{
	return kind == MQFS_ENTRY_WAITING && position <= flight_to && boot && strcmp(boot, state_boot_id(state)) == 0 &&
	       lease_until > mqfs_clock_boottime_ms();
}

void entry_read(struct mqfs_state *state, sqlite3_stmt *statement, struct entry_row *ret_row)
{
	struct mqfs_entry *entry = &ret_row->entry;
	const char *base = (const char *)sqlite3_column_text(statement, 5);

	ret_row->revision = sqlite3_column_int64(statement, 0);
	ret_row->position = sqlite3_column_int64(statement, 14);
	ret_row->line = sqlite3_column_int64(statement, 15);
	ret_row->bytes = sqlite3_column_int64(statement, 19);
	twin_write(base ? base : "", sqlite3_column_int64(statement, 6), ret_row->name);
	*entry = (struct mqfs_entry){
	    .id = sqlite3_column_int64(statement, 1),
	    .kind = sqlite3_column_int(statement, 2),
	    .queue = (const char *)sqlite3_column_text(statement, 3),
	    .priority = sqlite3_column_int(statement, 4),
	    .name = ret_row->name,
	    .mode = (mode_t)sqlite3_column_int(statement, 7),
	    .body_bytes = sqlite3_column_int64(statement, 8),
	    .modified_us = sqlite3_column_int64(statement, 9),
	    .due_us = sqlite3_column_int64(statement, 10),
	    .spoiled = sqlite3_column_int(statement, 11) != 0,
	    .error = sqlite3_column_int(statement, 12),
	    .reason = (const char *)sqlite3_column_text(statement, 13),
	};
	entry->in_flight =
	    is_in_flight(state, (int)entry->kind, ret_row->position, sqlite3_column_int64(statement, 16),
	                 (const char *)sqlite3_column_text(statement, 17), sqlite3_column_int64(statement, 18));
}

int entry_find(struct mqfs_state *state, int64_t id, struct entry_row *ret_row, sqlite3_stmt **ret_statement)
{
	static const char select[] = "SELECT " ENTRY_COLUMNS ENTRY_FROM " WHERE e.id = ?1";
	sqlite3_stmt *statement = state_statement(state, select);
	int r;

	*ret_statement = statement;
	sqlite3_bind_int64(statement, 1, id);
	r = statement_step(statement);
	if (r == 1)
		entry_read(state, statement, ret_row);
	return r;
}

static int content_write(struct mqfs_state *state, int64_t id, const struct codec_buffer *head,
                         const struct mqfs_body *body)
{
	static const char insert[] = "INSERT OR REPLACE INTO content (id, head, body) VALUES (?1, ?2, ?3)";
	sqlite3_stmt *statement = state_statement(state, insert);

	sqlite3_bind_int64(statement, 1, id);
	statement_bind_bytes(statement, 2, head->data, head->bytes);
	statement_bind_bytes(statement, 3, body->data, body->bytes);
	return statement_run(statement);
}

int entry_delete(struct mqfs_state *state, int64_t id, int64_t bytes, bool sent)
{
	static const char delete_entry[] = "DELETE FROM entry WHERE id = ?1";
	static const char delete_content[] = "DELETE FROM content WHERE id = ?1";
	static const char insert[] = "INSERT INTO removal (revision, id, sent) VALUES (?1, ?2, ?3)";
	static const char prune[] = "DELETE FROM removal WHERE revision <= ?1";
	sqlite3_stmt *statement = state_statement(state, delete_entry);
	int64_t revision;
	int r = entry_revise(state, -bytes, &revision);

	sqlite3_bind_int64(statement, 1, id);
	if (r == 0)
		r = statement_run(statement);
	statement = state_statement(state, delete_content);
	sqlite3_bind_int64(statement, 1, id);
	if (r == 0)
		r = statement_run(statement);
	if (r < 0)
		return r;
	statement = state_statement(state, insert);
	sqlite3_bind_int64(statement, 1, revision);
	sqlite3_bind_int64(statement, 2, id);
	sqlite3_bind_int(statement, 3, sent);
	r = statement_run(statement);
	if (r < 0)
		return r;
	statement = state_statement(state, prune);
	sqlite3_bind_int64(statement, 1, revision - REMOVALS_KEPT);
	return statement_run(statement);
}

int entry_refuse(struct mqfs_state *state, int64_t id, int error, const char *reason)
{
	static const char update[] = "UPDATE entry SET revision = ?2, kind = 1, position = 0, error = ?3, reason = ?4,"
	                             " due_at = min(0, ?5 - due_at)"
	                             " WHERE id = ?1";
	sqlite3_stmt *statement;
	int64_t revision;
	int r = entry_revise(state, 0, &revision);

	if (r < 0)
		return r;
	statement = state_statement(state, update);
	sqlite3_bind_int64(statement, 1, id);
	sqlite3_bind_int64(statement, 2, revision);
	sqlite3_bind_int(statement, 3, error);
	sqlite3_bind_text(statement, 4, reason, -1, SQLITE_STATIC);
	sqlite3_bind_int64(statement, 5, mqfs_clock_realtime_us());
	return statement_run(statement);
}

int entry_decode(sqlite3_stmt *statement, int head_column, struct mqfs_message **ret_message)
{
	const void *head = sqlite3_column_blob(statement, head_column);
	const void *body = sqlite3_column_blob(statement, head_column + 1);

	return codec_decode(head, (size_t)sqlite3_column_bytes(statement, head_column), body,
	                    (size_t)sqlite3_column_bytes(statement, head_column + 1), ret_message);
}

/* ---- requests ---- */

struct request {
	struct state_job job;
	struct mqfs_outbox *outbox;
	struct mqfs_entry entry; /* its strings are behind the struct */
	struct mqfs_message *message;
	struct codec_buffer head;
	int failed; /* before it began */
	union {
		mqfs_outbox_put_fn *put;
		mqfs_done_fn *removed;
		mqfs_outbox_load_fn *loaded;
	};
	void *arg;
	mqfs_name_t name; /* the outcome */
};

static int64_t request_bytes(const struct request *request)
{
	return OVERHEAD_BYTES + (int64_t)request->head.bytes + (int64_t)request->message->body->bytes;
}

/* 0, or -ENOSPC when bytes more don't fit. */
static int check_room(struct mqfs_outbox *outbox, int64_t more)
{
	int64_t bytes;
	int r;

	if (more <= 0)
		return 0;
	r = statement_integer(state_statement(outbox->state, "SELECT bytes FROM about"), 0, &bytes);
	if (r < 0)
		return r;
	return bytes + more > outbox->limits.max_bytes ? 1 : 0;
}

/* Writes the row, new or changed. */
static int entry_write(struct mqfs_state *state, const char *sql, const struct mqfs_entry *entry, int64_t revision,
                       int64_t line, int64_t position, const struct twin *twin, int64_t bytes)
{
	sqlite3_stmt *statement = state_statement(state, sql);

	sqlite3_bind_int64(statement, 1, entry->id);
	sqlite3_bind_int64(statement, 2, revision);
	sqlite3_bind_int64(statement, 3, line);
	sqlite3_bind_int(statement, 4, (int)entry->kind);
	sqlite3_bind_int64(statement, 5, position);
	sqlite3_bind_int(statement, 6, entry->priority);
	sqlite3_bind_text(statement, 7, twin->base, -1, SQLITE_STATIC);
	sqlite3_bind_int64(statement, 8, twin->number);
	sqlite3_bind_int(statement, 9, (int)entry->mode);
	sqlite3_bind_int64(statement, 10, bytes);
	sqlite3_bind_int64(statement, 11, entry->body_bytes);
	sqlite3_bind_int64(statement, 12, entry->modified_us);
	sqlite3_bind_int64(statement, 13, entry->due_us);
	sqlite3_bind_int(statement, 14, entry->spoiled);
	sqlite3_bind_int(statement, 15, entry->error);
	sqlite3_bind_text(statement, 16, entry->reason, -1, SQLITE_STATIC);
	return statement_run(statement);
}

static int put_run(struct mqfs_state *state, struct state_job *job)
{
	static const char insert[] =
	    "INSERT INTO entry (id, revision, line, kind, position, priority, base, twin, mode, bytes, body_bytes,"
	    " modified_at, due_at, spoiled, error, reason)"
	    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)";
	struct request *request = (struct request *)job;
	struct mqfs_entry *entry = &request->entry;
	int64_t revision, line;
	struct twin twin;
	int r;

	job->result = request->failed;
	if (request->failed)
		return 0;
	r = check_room(request->outbox, request_bytes(request));
	if (r != 0) {
		job->result = -ENOSPC;
		return r < 0 ? r : 0;
	}
	r = line_find(state, entry->queue, &line);
	if (r == 0)
		r = twin_choose(state, line, entry->priority, entry->name, 0, &twin);
	if (r == 0)
		r = entry_revise(state, request_bytes(request), &revision);
	if (r < 0)
		return r;
	entry->id = revision;
	entry->body_bytes = (int64_t)request->message->body->bytes;
	twin_write(twin.base, twin.number, request->name);
	r = entry_write(state, insert, entry, revision, line, entry->kind == MQFS_ENTRY_WAITING ? revision : 0, &twin,
	                request_bytes(request));
	return r < 0 ? r : content_write(state, entry->id, &request->head, request->message->body);
}

/* A row that may be changed or removed just now. 1; 0 with the outcome in job. Nothing is left open. */
static int find_free(struct mqfs_state *state, struct state_job *job, int64_t id, struct entry_row *ret_row)
{
	sqlite3_stmt *statement;
	int r = entry_find(state, id, ret_row, &statement);

	sqlite3_reset(statement);
	if (r == 1 && !ret_row->entry.in_flight)
		return 1;
	if (r >= 0)
		job->result = r == 0 ? -ENOENT : -EBUSY;
	return r < 0 ? r : 0;
}

static int change_run(struct mqfs_state *state, struct state_job *job)
{
	static const char update[] =
	    "UPDATE entry SET revision = ?2, line = ?3, kind = ?4, position = ?5, priority = ?6, base = ?7, twin = ?8,"
	    " mode = ?9, bytes = ?10, body_bytes = ?11, modified_at = ?12, due_at = ?13, spoiled = ?14, error = ?15,"
	    " reason = ?16 WHERE id = ?1";
	struct request *request = (struct request *)job;
	struct mqfs_entry *entry = &request->entry;
	int64_t revision, line, bytes, position = 0;
	struct entry_row row;
	struct twin twin;
	int r;

	job->result = request->failed;
	if (request->failed)
		return 0;
	r = find_free(state, job, entry->id, &row);
	if (r <= 0)
		return r;
	bytes = request->message ? request_bytes(request) : row.bytes;
	r = check_room(request->outbox, bytes - row.bytes);
	if (r != 0) {
		job->result = -ENOSPC;
		return r < 0 ? r : 0;
	}
	r = line_find(state, entry->queue, &line);
	if (r == 0)
		r = twin_choose(state, line, entry->priority, entry->name, entry->id, &twin);
	if (r == 0)
		r = entry_revise(state, bytes - row.bytes, &revision);
	if (r < 0)
		return r;
	/* What waits keeps its place in its line; but with other content it is another message. */
	if (entry->kind == MQFS_ENTRY_WAITING)
		position = row.entry.kind == MQFS_ENTRY_WAITING && row.line == line && !request->message ? row.position
		                                                                                         : revision;
	entry->body_bytes = request->message ? (int64_t)request->message->body->bytes : row.entry.body_bytes;
	twin_write(twin.base, twin.number, request->name);
	r = entry_write(state, update, entry, revision, line, position, &twin, bytes);
	if (r < 0 || !request->message)
		return r;
	return content_write(state, entry->id, &request->head, request->message->body);
}

static int remove_run(struct mqfs_state *state, struct state_job *job)
{
	struct request *request = (struct request *)job;
	struct entry_row row;
	int r = find_free(state, job, request->entry.id, &row);

	return r <= 0 ? r : entry_delete(state, request->entry.id, row.bytes, false);
}

static int load_run(struct mqfs_state *state, struct state_job *job)
{
	static const char select[] = "SELECT head, body FROM content WHERE id = ?1";
	struct request *request = (struct request *)job;
	sqlite3_stmt *statement = state_statement(state, select);
	int r;

	request->message = mqfs_message_free(request->message);
	sqlite3_bind_int64(statement, 1, request->entry.id);
	r = statement_step(statement);
	if (r == 0)
		job->result = -ENOENT;
	if (r == 1)
		job->result = entry_decode(statement, 0, &request->message);
	sqlite3_reset(statement);
	return r < 0 ? r : 0;
}

/* ---- from a call to its completion ---- */

static void request_end(struct request *request)
{
	struct mqfs_outbox *outbox = request->outbox;

	if (request->job.result == 0 && !request->job.reads)
		outbox->dirty = true;
	mqfs_message_free(request->message);
	free(request->head.data);
	free(request);
	outbox_job_ended(outbox);
}

static void put_done(struct mqfs_state *state, struct state_job *job)
{
	struct request *request = (struct request *)job;

	(void)state;
	request->put(request->arg, job->result, request->entry.id, request->name);
	request_end(request);
}

static void remove_done(struct mqfs_state *state, struct state_job *job)
{
	struct request *request = (struct request *)job;

	(void)state;
	request->removed(request->arg, job->result, NULL);
	request_end(request);
}

static void load_done(struct mqfs_state *state, struct state_job *job)
{
	struct request *request = (struct request *)job;

	(void)state;
	request->loaded(request->arg, job->result, job->result == 0 ? request->message : NULL);
	if (job->result == 0)
		request->message = NULL;
	request_end(request);
}

/* A caller that can't even ask can't be told so; some hundred bytes are soon to be had again. */
static void *allocate_patiently(size_t bytes)
{
	static const struct timespec pause = {.tv_nsec = 1000 * 1000};
	void *memory;

	while (!(memory = calloc(1, bytes)))
		nanosleep(&pause, NULL);
	return memory;
}

static struct request *request_new(struct mqfs_outbox *outbox, const struct mqfs_entry *entry, int64_t deadline_ms,
                                   void *arg)
{
	size_t queue = entry->queue ? strlen(entry->queue) + 1 : 0, name = entry->name ? strlen(entry->name) + 1 : 0;
	size_t reason = entry->reason ? strlen(entry->reason) + 1 : 0;
	struct request *request = allocate_patiently(sizeof(*request) + queue + name + reason);
	char *text = (char *)(request + 1);

	request->outbox = outbox;
	request->entry = *entry;
	request->arg = arg;
	request->job.deadline_ms = deadline_ms;
	if (queue)
		request->entry.queue = memcpy(text, entry->queue, queue);
	if (name)
		request->entry.name = memcpy(text + queue, entry->name, name);
	if (reason)
		request->entry.reason = memcpy(text + queue + name, entry->reason, reason);
	return request;
}

static void request_submit(struct request *request, struct mqfs_message *message)
{
	request->message = message;
	if (message) {
		request->failed = codec_encode(message, &request->head);
		request->job.bytes = request->head.bytes + message->body->bytes;
	}
	outbox_submit(request->outbox, &request->job);
}

void mqfs_outbox_put(struct mqfs_outbox *outbox, const struct mqfs_entry *entry, struct mqfs_message *message,
                     int64_t deadline_ms, mqfs_outbox_put_fn *done, void *arg)
{
	struct request *request = request_new(outbox, entry, deadline_ms, arg);

	request->entry.id = 0;
	request->job.run = put_run;
	request->job.done = put_done;
	request->put = done;
	request_submit(request, message);
}

void mqfs_outbox_change(struct mqfs_outbox *outbox, const struct mqfs_entry *entry, struct mqfs_message *message,
                        int64_t deadline_ms, mqfs_outbox_put_fn *done, void *arg)
{
	struct request *request = request_new(outbox, entry, deadline_ms, arg);

	request->job.run = change_run;
	request->job.done = put_done;
	request->put = done;
	request_submit(request, message);
}

void mqfs_outbox_remove(struct mqfs_outbox *outbox, int64_t id, int64_t deadline_ms, mqfs_done_fn *done, void *arg)
{
	struct request *request = request_new(outbox, &(struct mqfs_entry){.id = id}, deadline_ms, arg);

	request->job.run = remove_run;
	request->job.done = remove_done;
	request->removed = done;
	request_submit(request, NULL);
}

void mqfs_outbox_load(struct mqfs_outbox *outbox, int64_t id, int64_t deadline_ms, mqfs_outbox_load_fn *done, void *arg)
{
	struct request *request = request_new(outbox, &(struct mqfs_entry){.id = id}, deadline_ms, arg);

	request->job.run = load_run;
	request->job.done = load_done;
	request->job.reads = true;
	request->loaded = done;
	request_submit(request, NULL);
}
