"""Block coordinate descent against its peers."""
