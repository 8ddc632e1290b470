async def make_report(job_id):
    return f"report {job_id}"
