/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <mqfs/clock.h>

#include "db/codec.h"
#include "db/patient.h"

#include "outbox_internal.h"
#include "twin.h"

/*
 * What fs/ asks of the outbox. Each request is a job: the head is encoded by the caller, and the transaction has only
 * to find out whether it may, and to write.
 */

enum { OVERHEAD_BYTES = 512 }; /* charged for each entry: rows and indexes */

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

/* 1: bytes more don't fit; 0: they do, or it needs none. */
static int check_room(struct mqfs_outbox *outbox, int64_t more)
{
	int64_t bytes;
	int r;

	if (more <= 0)
		return 0;
	r = statement_integer(state_statement(outbox->state, "SELECT bytes FROM about"), 0, &bytes);
	if (r < 0)
		return r;
	return bytes > outbox->limits.max_bytes - more ? 1 : 0;
}

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
	int64_t revision = 0, line = 0;
	struct twin twin = {.number = 1};
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

/* A row that may be changed or removed just now. 1; 0 with the outcome in the job. Nothing is left open. */
static int find_free(struct mqfs_state *state, struct request *request, struct entry_row *ret_row)
{
	sqlite3_stmt *statement;
	int r = entry_find(state, request->entry.id, ret_row, &statement);

	sqlite3_reset(statement);
	if (r == 1 && !ret_row->entry.in_flight && !sender_has(request->outbox, ret_row->line, request->entry.id))
		return 1;
	if (r >= 0)
		request->job.result = r == 0 ? -ENOENT : -EBUSY;
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
	int64_t revision = 0, line = 0, bytes, position = 0;
	struct entry_row row;
	struct twin twin = {.number = 1};
	int r;

	job->result = request->failed;
	if (request->failed)
		return 0;
	r = find_free(state, request, &row);
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
	int r = find_free(state, request, &row);

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

static struct request *request_new(struct mqfs_outbox *outbox, const struct mqfs_entry *entry, int64_t deadline_ms,
                                   void *arg)
{
	size_t queue = entry->queue ? strlen(entry->queue) + 1 : 0, name = entry->name ? strlen(entry->name) + 1 : 0;
	size_t reason = entry->reason ? strlen(entry->reason) + 1 : 0;
	struct request *request = patient_alloc(sizeof(*request) + queue + name + reason);
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
