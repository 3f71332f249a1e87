class OomKills:
    def taken(self) -> int:
        return 0
